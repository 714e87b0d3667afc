"""Rejected rows: written with their file, row number and reason, and counted by reason."""

from pathlib import Path

import pandas as pd

from attnrec.ingestion.database import Workspace, quote_files, quote_text
from attnrec.ingestion.reader import SourceFile
from attnrec.ingestion.staging import REJECTED_PART, STAGED


def write_rejected_interactions(workspace: Workspace, files: list[SourceFile]) -> dict[str, int]:
    """Write rejected/ from the rows that the two passes rejected; return the number of rows by reason."""
    staged = workspace.work / STAGED
    pieces = sorted(staged.glob(f"*/part={REJECTED_PART}/*.parquet"))
    pieces += sorted((staged / "duplicates").glob("*.parquet"))
    rows = "SELECT NULL::BIGINT AS arrival, NULL::VARCHAR AS reason, NULL::VARCHAR AS line WHERE false"
    if pieces:
        rows = f"SELECT arrival, reason, line FROM read_parquet({quote_files(pieces)}, hive_partitioning=false)"
    return write_rejected(workspace, rows, workspace.folder / "rejected", files)


def write_rejected(workspace: Workspace, rows: str, target: Path, files: list[SourceFile]) -> dict[str, int]:
    """Write rows of (arrival, reason, line) as (file, row, reason, line) to a new folder, sorted by arrival.

    Args:
        workspace: the database.
        rows: SQL query for the rows.
        target: the folder to create.
        files: the source files, which give the file name and row number of an arrival number.

    Returns:
        Number of rows by reason.
    """
    target.mkdir()
    path = quote_text(target / "part-0.parquet")
    workspace.database.execute("CREATE OR REPLACE TEMP TABLE source_files (name VARCHAR, first BIGINT)")
    read = [file for file in files if file.n_rows]
    names, firsts = [file.name for file in read], [file.first for file in read]
    workspace.database.execute("INSERT INTO source_files SELECT unnest(?), unnest(?)", [names, firsts])
    workspace.database.execute(
        f"""COPY (SELECT name AS file, arrival - first + 1 AS row, reason, line
        FROM ({rows}) ASOF JOIN source_files ON arrival >= first ORDER BY arrival)
        TO {path} (FORMAT parquet, COMPRESSION zstd)"""
    )
    counts = f"SELECT reason, count(*) FROM {path} GROUP BY reason ORDER BY reason"
    return dict(workspace.database.execute(counts).fetchall())


def rejected_by_reason(folder: Path) -> pd.DataFrame:
    """Count the rejected interactions by reason, most frequent first.

    Args:
        folder: the result of `ingest`.

    Returns:
        One row per reason: reason, rows (their number), example (such as "log.csv row 3: u1,,2020-01-01").
    """
    rejected = pd.read_parquet(folder / "rejected")
    row = rejected["row"].astype("str")
    rejected["example"] = rejected["file"] + " row " + row + ": " + rejected["line"].fillna("")
    counts = rejected.groupby("reason").agg(rows=("row", "size"), example=("example", "first"))
    return counts.sort_values("rows", ascending=False, kind="stable").reset_index()
