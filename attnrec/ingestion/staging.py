"""First pass over a log: rows are numbered and checked, good ones go to their user's partition.

One statement per part of a file, so that memory does not grow with the log.
"""

from pathlib import Path

from attnrec.ingestion.checks import checked_rows, mapped_columns
from attnrec.ingestion.database import Workspace, one_row, quote_text
from attnrec.ingestion.reader import ReadFile, read_files
from attnrec.ingestion.scan import Scan
from attnrec.ingestion.source import InteractionSource

STAGED = "staged"
REJECTED_PART = -1


def stage(
    space: Workspace, source: InteractionSource, files: list[Path], *, n_partitions: int, latest: int
) -> list[ReadFile]:
    """Write all rows of `files` as work/staged/<scan>/part=<p>/*.parquet; bad rows have part -1.

    Args:
        latest: Unix seconds; a later event is in the future.

    Raises:
        IngestionError: naming the file that cannot be read.
    """
    n_scans = 0
    (space.work / STAGED).mkdir()

    def take(scan: Scan, first: int) -> None:
        nonlocal n_scans
        rows = _staged_rows(scan, source, first=first, n_partitions=n_partitions, latest=latest)
        target = quote_text(space.work / STAGED / f"{n_scans:06d}")
        copy = f"COPY ({rows}) TO {target} (FORMAT parquet, PARTITION_BY (part), COMPRESSION lz4_raw)"
        (count,) = one_row(space.database, copy)
        assert count == scan.n_rows, f"{scan.n_rows} rows prepared, {count} read"
        n_scans += 1

    return read_files(space, source, files, list(mapped_columns(source).values()), take)


def _staged_rows(scan: Scan, source: InteractionSource, *, first: int, n_partitions: int, latest: int) -> str:
    mapped = mapped_columns(source)
    arrival = f"({first} + row - 1)::BIGINT"
    time = {"datetime": "datetime", "order": arrival, "none": "NULL::BIGINT"}[source.time_kind]
    weight = "weight" if "weight" in mapped else "NULL::FLOAT"
    event = "event" if "event" in mapped else "NULL::VARCHAR"
    return f"""SELECT {arrival} AS arrival, user_id, item_id, {time} AS datetime,
        {weight} AS weight, {event} AS event, fingerprint, reason,
        CASE WHEN reason IS NOT NULL THEN {scan.original} END AS line,
        CASE WHEN reason IS NULL THEN (hash(user_id) % {n_partitions})::INTEGER ELSE {REJECTED_PART} END
        AS part
        FROM ({checked_rows(scan, source, latest)})"""
