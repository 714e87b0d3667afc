"""Second pass over a log: remove duplicates in each partition and sort it by user, time and arrival number."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from attnrec.ingestion.checks import mapped_columns
from attnrec.ingestion.database import Workspace, one_row, quote_files, quote_text
from attnrec.ingestion.source import InteractionSource
from attnrec.ingestion.staging import STAGED


@dataclass
class AcceptedRows:
    """Statistics of all partitions; `rows_hash` does not depend on the number of partitions."""

    n_rows: int = 0
    n_users: int = 0
    n_items: int = 0
    rows_hash: int = 0
    times: list[int] = field(default_factory=list)

    def time(self, first_or_last: Callable[[Iterable[int]], int]) -> str | None:
        """Return the first (`min`) or last (`max`) time in ISO format, None for a log without times."""
        return datetime.fromtimestamp(first_or_last(self.times), UTC).isoformat() if self.times else None

    def content_hash(self, source: InteractionSource) -> str:
        """Return a hash of the accepted rows, their arrival numbers and their columns."""
        content = (list(mapped_columns(source)), source.time_kind, self.n_rows, self.n_users, self.rows_hash)
        return sha256(repr(content).encode()).hexdigest()


def write_partitions(workspace: Workspace, source: InteractionSource, n_partitions: int) -> AcceptedRows:
    """Write interactions/part=*/data.parquet from work/staged, and the duplicates to work/staged/duplicates."""
    accepted = AcceptedRows()
    staged, duplicates = workspace.work / STAGED, workspace.work / STAGED / "duplicates"
    duplicates.mkdir()
    workspace.database.execute("CREATE TABLE catalogue (item_id VARCHAR)")
    for part in range(n_partitions):
        if pieces := sorted(staged.glob(f"*/part={part}/*.parquet")):
            rows = f"SELECT * FROM read_parquet({quote_files(pieces)}, hive_partitioning=false)"
            workspace.database.execute(f"CREATE OR REPLACE TEMP TABLE part AS {rows}")
            if source.time_kind != "order":  # with arrival numbers as times, no two rows have the same time
                _remove_duplicates(workspace, source, duplicates / f"{part:03d}.parquet")
            _count(workspace, source, accepted)
            _write_sorted(workspace, source, workspace.folder / "interactions" / f"part={part:03d}")
            for piece in pieces:
                piece.unlink()
        workspace.report_progress("sorting by user and time", (part + 1) / n_partitions)
    (accepted.n_items,) = one_row(workspace.database, "SELECT count(*) FROM catalogue")
    return accepted


def _remove_duplicates(workspace: Workspace, source: InteractionSource, path: Path) -> None:
    """Move rows that equal an earlier row from the table `part` to `path`, with their mapped columns as JSON.

    Two rows are equal if they agree in user, item, time and the hash of the whole source row.
    """
    values = ", ".join(f"{quote_text(column)}, {name}" for name, column in mapped_columns(source).items())
    workspace.database.execute(
        f"""CREATE OR REPLACE TEMP TABLE copies AS
        SELECT arrival, 'duplicate' AS reason, json_object({values})::VARCHAR AS line FROM part
        WHERE fingerprint IN (SELECT fingerprint FROM part GROUP BY fingerprint HAVING count(*) > 1)
        QUALIFY row_number() OVER (PARTITION BY {_same_row(source)} ORDER BY arrival) > 1"""
    )
    if one_row(workspace.database, "SELECT count(*) FROM copies") != (0,):
        workspace.database.execute(f"COPY copies TO {quote_text(path)} (FORMAT parquet)")
        workspace.database.execute("DELETE FROM part WHERE arrival IN (SELECT arrival FROM copies)")


def _same_row(source: InteractionSource) -> str:
    """Return the columns in which equal rows agree; an unordered log has no time."""
    time = ", datetime" if source.time_kind == "datetime" else ""
    return f"fingerprint, user_id, item_id{time}"


def _count(workspace: Workspace, source: InteractionSource, accepted: AcceptedRows) -> None:
    row = "concat_ws(chr(31), user_id, item_id, datetime, weight, event, arrival)"
    n_rows, n_users, first, last, rows_hash = one_row(
        workspace.database,
        f"""SELECT count(*), count(DISTINCT user_id), min(datetime), max(datetime), bit_xor(md5_number({row}))
        FROM part""",
    )
    accepted.n_rows += n_rows
    accepted.n_users += n_users
    accepted.rows_hash ^= rows_hash
    accepted.times += [first, last] if source.time_kind == "datetime" else []
    workspace.database.execute(
        "INSERT INTO catalogue SELECT DISTINCT item_id FROM part ANTI JOIN catalogue USING (item_id)"
    )


def _write_sorted(workspace: Workspace, source: InteractionSource, folder: Path) -> None:
    folder.mkdir(parents=True)
    columns = list(mapped_columns(source))
    if source.time_kind == "order":
        columns.insert(2, "datetime")
    workspace.database.execute(
        f"""COPY (SELECT {", ".join(columns)} FROM part ORDER BY user_id, datetime, arrival)
        TO {quote_text(folder / "data.parquet")} (FORMAT parquet, COMPRESSION zstd)"""
    )
