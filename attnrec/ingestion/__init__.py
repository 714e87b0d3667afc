"""Ingestion: raw logs and tables are validated and written as Parquet; invalid rows are kept with a reason.

This is the only package that imports duckdb, and only when `ingest` runs.
"""

from attnrec.ingestion.interactions import ingest
from attnrec.ingestion.rejected import rejected_by_reason
from attnrec.ingestion.source import (
    IngestionError,
    InteractionSource,
    TableSource,
    source_fingerprint,
)

__all__ = [
    "IngestionError",
    "InteractionSource",
    "TableSource",
    "ingest",
    "rejected_by_reason",
    "source_fingerprint",
]
