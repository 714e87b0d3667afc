"""Second pass: each partition without duplicates, sorted by (user, time, order of arrival)."""

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
class Accepted:
    """What the partitions hold together; `rows_hash` does not depend on how they were cut."""

    n_rows: int = 0
    n_users: int = 0
    n_items: int = 0
    rows_hash: int = 0
    times: list[int] = field(default_factory=list)

    def time(self, first_or_last: Callable[[Iterable[int]], int]) -> str | None:
        """The first (`min`) or last (`max`) time as ISO text, None where there is no clock."""
        return datetime.fromtimestamp(first_or_last(self.times), UTC).isoformat() if self.times else None

    def content_hash(self, source: InteractionSource) -> str:
        """Fingerprint of the accepted rows, their order of arrival and their columns."""
        facts = (list(mapped_columns(source)), source.time_kind, self.n_rows, self.n_users, self.rows_hash)
        return sha256(repr(facts).encode()).hexdigest()


def write_partitions(space: Workspace, source: InteractionSource, n_partitions: int) -> Accepted:
    """Turn work/staged into interactions/part=*/data.parquet; duplicates go to work/staged/duplicates."""
    accepted = Accepted()
    staged, duplicates = space.work / STAGED, space.work / STAGED / "duplicates"
    duplicates.mkdir()
    space.database.execute("CREATE TABLE catalogue (item_id VARCHAR)")
    for part in range(n_partitions):
        if pieces := sorted(staged.glob(f"*/part={part}/*.parquet")):
            rows = f"SELECT * FROM read_parquet({quote_files(pieces)}, hive_partitioning=false)"
            space.database.execute(f"CREATE OR REPLACE TEMP TABLE part AS {rows}")
            if source.time_kind != "order":  # where arrival is the time, no two rows happened at the same one
                _set_duplicates_aside(space, source, duplicates / f"{part:03d}.parquet")
            _count(space, source, accepted)
            _write_sorted(space, source, space.folder / "interactions" / f"part={part:03d}")
            for piece in pieces:
                piece.unlink()
        space.step("sorting by user and time", (part + 1) / n_partitions)
    (accepted.n_items,) = one_row(space.database, "SELECT count(*) FROM catalogue")
    return accepted


def _set_duplicates_aside(space: Workspace, source: InteractionSource, path: Path) -> None:
    """Rows equal to an earlier one leave the table `part`; what was read of them is their line, as JSON.

    Rows are equal when user, item, time and the hash of the whole source row are.
    """
    values = ", ".join(f"{quote_text(column)}, {name}" for name, column in mapped_columns(source).items())
    space.database.execute(
        f"""CREATE OR REPLACE TEMP TABLE copies AS
        SELECT arrival, 'duplicate' AS reason, json_object({values})::VARCHAR AS line FROM part
        WHERE fingerprint IN (SELECT fingerprint FROM part GROUP BY fingerprint HAVING count(*) > 1)
        QUALIFY row_number() OVER (PARTITION BY {_same_row(source)} ORDER BY arrival) > 1"""
    )
    if one_row(space.database, "SELECT count(*) FROM copies") != (0,):
        space.database.execute(f"COPY copies TO {quote_text(path)} (FORMAT parquet)")
        space.database.execute("DELETE FROM part WHERE arrival IN (SELECT arrival FROM copies)")


def _same_row(source: InteractionSource) -> str:
    """Columns that equal rows share; where the order of arrival is the time, the time is not one of them."""
    time = ", datetime" if source.time_kind == "datetime" else ""
    return f"fingerprint, user_id, item_id{time}"


def _count(space: Workspace, source: InteractionSource, accepted: Accepted) -> None:
    row = "concat_ws(chr(31), user_id, item_id, datetime, weight, event, arrival)"
    n_rows, n_users, first, last, rows_hash = one_row(
        space.database,
        f"""SELECT count(*), count(DISTINCT user_id), min(datetime), max(datetime), bit_xor(md5_number({row}))
        FROM part""",
    )
    accepted.n_rows += n_rows
    accepted.n_users += n_users
    accepted.rows_hash ^= rows_hash
    accepted.times += [first, last] if source.time_kind == "datetime" else []
    space.database.execute(
        "INSERT INTO catalogue SELECT DISTINCT item_id FROM part ANTI JOIN catalogue USING (item_id)"
    )


def _write_sorted(space: Workspace, source: InteractionSource, folder: Path) -> None:
    folder.mkdir(parents=True)
    columns = list(mapped_columns(source))
    if source.time_kind == "order":
        columns.insert(2, "datetime")
    space.database.execute(
        f"""COPY (SELECT {", ".join(columns)} FROM part ORDER BY user_id, datetime, arrival)
        TO {quote_text(folder / "data.parquet")} (FORMAT parquet, COMPRESSION zstd)"""
    )
