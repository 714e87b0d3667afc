"""`ingest`: validate a raw log and write it as partitioned Parquet."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from attnrec.ingestion.checks import check_expressions, latest_allowed
from attnrec.ingestion.database import Workspace, open_database
from attnrec.ingestion.partitions import AcceptedRows, write_partitions
from attnrec.ingestion.progress import progress_bar
from attnrec.ingestion.reader import SourceFile
from attnrec.ingestion.rejected import write_rejected_interactions
from attnrec.ingestion.source import IngestionError, InteractionSource, TableSource, find_files
from attnrec.ingestion.staging import stage
from attnrec.ingestion.tables import write_table
from attnrec.schema import SCHEMA_VERSION
from attnrec.storage import MANIFEST, new_folder, write_json

BYTES_PER_PARTITION = 32 * 2**20
MAX_PARTITIONS = 256


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
    """Validate a raw log and write it to `target`, partitioned by user and sorted by user and time.

    `target` is written atomically. It contains:
        interactions/part=*/data.parquet: user_id, item_id, datetime (Unix seconds) and, if mapped, weight and event.
        rejected/: the rejected rows as file, row (from 1, without the header), reason and line (the source row).
        items.parquet, users.parquet, rejected_items/, rejected_users/: the same for the tables.
        manifest.json: numbers of rows, users and items, rejected rows by reason, a hash of the content.

    Args:
        interactions: files and columns of the log.
        target: the folder to create.
        items: files and columns of the item table.
        users: files and columns of the user table.
        as_of: reject later events (without time zone: UTC). Default: now plus one day, for clocks that are fast.
        n_partitions: number of partitions. Default: one per 32 MB of source files, at most 256.
        progress: whether to show a progress bar on a terminal after two seconds.

    Returns:
        `target`.

    Raises:
        IngestionError: for an empty or unreadable source, a missing column, or a log without a valid row.
        StorageError: when the disk is full.
        ValueError: for `n_partitions` below 1.
    """
    if n_partitions is not None and n_partitions < 1:
        raise ValueError(f"n_partitions must be at least 1, got {n_partitions}; omit it for the default")
    files = find_files(interactions)
    n_partitions = n_partitions or _default_partitions(files)
    with new_folder(target) as folder, progress_bar(enabled=progress) as report_progress:
        work = folder / ".work"
        work.mkdir()
        with open_database(work / "spill") as database:
            check_expressions(database, interactions)
            workspace = Workspace(database, folder, work, report_progress)
            source_files = stage(
                workspace, interactions, files, n_partitions=n_partitions, latest=latest_allowed(as_of)
            )
            manifest = _finish(workspace, interactions, source_files, n_partitions)
            for name, table in (("items", items), ("users", users)):
                manifest[name] = None if table is None else write_table(workspace, table, name)
        shutil.rmtree(work)
        write_json(folder / MANIFEST, manifest)
    return target


def _default_partitions(files: list[Path]) -> int:
    n_bytes = sum(file.stat().st_size for file in files)
    return min(max(n_bytes // BYTES_PER_PARTITION, 1), MAX_PARTITIONS)


def _finish(
    workspace: Workspace, source: InteractionSource, files: list[SourceFile], n_partitions: int
) -> dict[str, Any]:
    """Write interactions/ and rejected/ from the staged rows, and return the manifest."""
    n_read = sum(file.n_rows for file in files)
    if not n_read:
        raise IngestionError(f"a log must have at least one row, got none in {len(files)} file(s); check the path")
    accepted = write_partitions(workspace, source, n_partitions)
    reasons = write_rejected_interactions(workspace, files)
    if not accepted.n_rows:
        raise IngestionError(
            f"a log must have at least one valid row, got {n_read:,} rejected rows of {files[0].name} "
            f"({', '.join(f'{count:,} {reason}' for reason, count in reasons.items())}); {_advice(reasons)}"
        )
    return _manifest(source, files, accepted, reasons)


def _advice(reasons: dict[str, int]) -> str:
    """Name the setting that helps when every row was rejected."""
    if "unparsable datetime" in reasons:
        return "set datetime_format in [interactions], such as datetime_format = '%d.%m.%Y %H:%M', or datetime_unit"
    return "check the column names and formats in [interactions]"


def _manifest(
    source: InteractionSource, files: list[SourceFile], accepted: AcceptedRows, reasons: dict[str, int]
) -> dict[str, Any]:
    n_read, n_rejected = sum(file.n_rows for file in files), sum(reasons.values())
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
        "files": [{"name": file.name, "read": file.n_rows} for file in files],
    }
