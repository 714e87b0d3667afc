"""First pass over a log: number and validate the rows and write them to the partition of their user.

Each scan is one SQL statement, so that memory does not grow with the log.
"""

from pathlib import Path

from attnrec.ingestion.checks import checked_rows, mapped_columns
from attnrec.ingestion.database import Workspace, one_row, quote_text
from attnrec.ingestion.reader import SourceFile, read_files
from attnrec.ingestion.scan import Scan
from attnrec.ingestion.source import InteractionSource

STAGED = "staged"
REJECTED_PART = -1


def stage(
    workspace: Workspace, source: InteractionSource, files: list[Path], *, n_partitions: int, latest: int
) -> list[SourceFile]:
    """Write all rows of `files` to work/staged/<scan>/part=<p>/*.parquet; rejected rows have part -1.

    Args:
        workspace: database and temporary folder.
        source: how the files are written.
        files: the files, in order.
        n_partitions: number of partitions.
        latest: latest valid time, Unix seconds.

    Raises:
        IngestionError: for a file that cannot be read.
    """
    n_scans = 0
    (workspace.work / STAGED).mkdir()

    def process(scan: Scan, first: int) -> None:
        nonlocal n_scans
        rows = _staged_rows(scan, source, first=first, n_partitions=n_partitions, latest=latest)
        target = quote_text(workspace.work / STAGED / f"{n_scans:06d}")
        copy = f"COPY ({rows}) TO {target} (FORMAT parquet, PARTITION_BY (part), COMPRESSION lz4_raw)"
        (count,) = one_row(workspace.database, copy)
        assert count == scan.n_rows, f"{scan.n_rows} rows prepared, {count} read"
        n_scans += 1

    return read_files(workspace, source, files, list(mapped_columns(source).values()), process)


def _staged_rows(scan: Scan, source: InteractionSource, *, first: int, n_partitions: int, latest: int) -> str:
    mapped = mapped_columns(source)
    arrival = f"({first} + row - 1)::BIGINT"
    time = {"datetime": "datetime", "order": arrival, "none": "NULL::BIGINT"}[source.time_kind]
    weight = "weight" if "weight" in mapped else "NULL::FLOAT"
    event = "event" if "event" in mapped else "NULL::VARCHAR"
    return f"""SELECT {arrival} AS arrival, user_id, item_id, {time} AS datetime,
        {weight} AS weight, {event} AS event, fingerprint, reason,
        CASE WHEN reason IS NOT NULL THEN {scan.source_text} END AS line,
        CASE WHEN reason IS NULL THEN (hash(user_id) % {n_partitions})::INTEGER ELSE {REJECTED_PART} END
        AS part
        FROM ({checked_rows(scan, source, latest)})"""
