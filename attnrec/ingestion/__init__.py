"""Raw logs and tables to clean files on disk: bad rows are set aside with a reason, never lost.

The only package that imports duckdb, and only when `ingest` runs.
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
