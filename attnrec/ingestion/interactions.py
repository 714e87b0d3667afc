"""Raw log to clean interactions on disk: the verb `ingest`."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from attnrec.ingestion.checks import check_expressions, latest_allowed
from attnrec.ingestion.database import Workspace, open_database
from attnrec.ingestion.partitions import Accepted, write_partitions
from attnrec.ingestion.progress import progress_bar
from attnrec.ingestion.reader import ReadFile
from attnrec.ingestion.rejected import write_rejected_interactions
from attnrec.ingestion.source import IngestionError, InteractionSource, TableSource, find_files
from attnrec.ingestion.staging import stage
from attnrec.ingestion.tables import write_table
from attnrec.schema import SCHEMA_VERSION
from attnrec.storage import MANIFEST, new_folder, write_json

BYTES_PER_PARTITION = 32 * 2**20
MOST_PARTITIONS = 256


def ingest(
    interactions: InteractionSource,
    target: Path,
    *,
    items: TableSource | None = None,
    users: TableSource | None = None,
    as_of: datetime | None = None,
    n_partitions: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a raw log to `target` as clean interactions, partitioned by user, sorted by user and time.

    Bad rows are set aside under rejected/ with their file, row and reason; manifest.json counts everything.

    Args:
        target: folder to make; whole or absent, whatever happens.
        items, users: tables to write beside as items.parquet and users.parquet.
        as_of: later events are rejected (without zone: UTC). Default: now, plus a day for clocks ahead.
        n_partitions: default one per 32 MB of source, 1 to 256.
        progress: show a bar on a terminal when it takes more than two seconds.

    Returns:
        `target`.

    Raises:
        IngestionError: for an empty or broken source, a column that is not there, or no good row at all.
        StorageError: when the disk is full.
        ValueError: for `n_partitions` below 1.
    """
    if n_partitions is not None and n_partitions < 1:
        raise ValueError(f"n_partitions must be at least 1, got {n_partitions}; leave it out for the default")
    files = find_files(interactions)
    n_partitions = n_partitions or _usual_partitions(files)
    with new_folder(target) as folder, progress_bar(shown=progress) as step:
        work = folder / ".work"
        work.mkdir()
        with open_database(work / "spill") as database:
            check_expressions(database, interactions)
            space = Workspace(database, folder, work, step)
            read = stage(space, interactions, files, n_partitions=n_partitions, latest=latest_allowed(as_of))
            manifest = _finish(space, interactions, read, n_partitions)
            for name, table in (("items", items), ("users", users)):
                manifest[name] = None if table is None else write_table(space, table, name)
        shutil.rmtree(work)
        write_json(folder / MANIFEST, manifest)
    return target


def _usual_partitions(files: list[Path]) -> int:
    n_bytes = sum(file.stat().st_size for file in files)
    return min(max(n_bytes // BYTES_PER_PARTITION, 1), MOST_PARTITIONS)


def _finish(space: Workspace, source: InteractionSource, read: list[ReadFile], n_partitions: int) -> dict[str, Any]:
    """From what is staged to interactions/, rejected/ and their part of the manifest."""
    n_read = sum(file.n_rows for file in read)
    if not n_read:
        raise IngestionError(f"a log must hold at least one row, got none in {len(read)} file(s); check the path")
    accepted = write_partitions(space, source, n_partitions)
    reasons = write_rejected_interactions(space, read)
    if not accepted.n_rows:
        raise IngestionError(
            f"a log must hold at least one good row, got none in {n_read}: {reasons}; "
            "check the names of columns and the formats"
        )
    return _manifest(source, read, accepted, reasons)


def _manifest(
    source: InteractionSource, read: list[ReadFile], accepted: Accepted, reasons: dict[str, int]
) -> dict[str, Any]:
    n_read, n_rejected = sum(file.n_rows for file in read), sum(reasons.values())
    assert accepted.n_rows + n_rejected == n_read, (
        f"{accepted.n_rows} accepted + {n_rejected} rejected != {n_read} read"
    )
    return {
        "content_hash": accepted.content_hash(source),
        "read": n_read,
        "accepted": accepted.n_rows,
        "rejected": n_rejected,
        "rejected_by_reason": reasons,
        "n_users": accepted.n_users,
        "n_items": accepted.n_items,
        "first_time": accepted.time(min),
        "last_time": accepted.time(max),
        "ordered": source.time_kind != "none",
        "time_kind": source.time_kind,
        "has_weight": source.weight is not None,
        "has_event": source.event is not None,
        "schema_version": SCHEMA_VERSION,
        "files": [{"name": file.name, "read": file.n_rows} for file in read],
    }
