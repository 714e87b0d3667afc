"""Rows that were set aside: written with their file, row and reason, counted, and shown to people."""

from pathlib import Path

import pandas as pd

from attnrec.ingestion.database import Workspace, quote_files, quote_text
from attnrec.ingestion.reader import ReadFile
from attnrec.ingestion.staging import REJECTED_PART, STAGED


def write_rejected_interactions(space: Workspace, files: list[ReadFile]) -> dict[str, int]:
    """Write rejected/ from what the two passes left in work/staged; count it by reason."""
    staged = space.work / STAGED
    pieces = sorted(staged.glob(f"*/part={REJECTED_PART}/*.parquet"))
    pieces += sorted((staged / "duplicates").glob("*.parquet"))
    rows = "SELECT NULL::BIGINT AS arrival, NULL::VARCHAR AS reason, NULL::VARCHAR AS line WHERE false"
    if pieces:
        rows = f"SELECT arrival, reason, line FROM read_parquet({quote_files(pieces)}, hive_partitioning=false)"
    return write_rejected(space, rows, space.folder / "rejected", files)


def write_rejected(space: Workspace, rows: str, target: Path, files: list[ReadFile]) -> dict[str, int]:
    """Write rows of (arrival, reason, line) as (file, row, reason, line) to a new folder, sorted by arrival.

    Args:
        rows: SQL query.

    Returns:
        How many rows each reason has.
    """
    target.mkdir()
    path = quote_text(target / "part-0.parquet")
    space.database.execute("CREATE OR REPLACE TEMP TABLE source_files (name VARCHAR, first BIGINT)")
    read = [file for file in files if file.n_rows]
    names, firsts = [file.name for file in read], [file.first for file in read]
    space.database.execute("INSERT INTO source_files SELECT unnest(?), unnest(?)", [names, firsts])
    space.database.execute(
        f"""COPY (SELECT name AS file, arrival - first + 1 AS row, reason, line
        FROM ({rows}) ASOF JOIN source_files ON arrival >= first ORDER BY arrival)
        TO {path} (FORMAT parquet, COMPRESSION zstd)"""
    )
    counts = f"SELECT reason, count(*) FROM {path} GROUP BY reason ORDER BY reason"
    return dict(space.database.execute(counts).fetchall())


def rejected_by_reason(folder: Path) -> pd.DataFrame:
    """Count the rejected rows of an ingested `folder` by reason, most frequent first.

    Returns:
        One row per reason: reason, rows, and an example ("log.csv row 3: u1,,2020-01-01").
    """
    rejected = pd.read_parquet(folder / "rejected")
    row = rejected["row"].astype("str")
    rejected["example"] = rejected["file"] + " row " + row + ": " + rejected["line"].fillna("")
    counts = rejected.groupby("reason").agg(rows=("row", "size"), example=("example", "first"))
    return counts.sort_values("rows", ascending=False, kind="stable").reset_index()
