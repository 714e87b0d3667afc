"""The tables of items and users: one row per id, columns of the declared types."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnrec.ingestion.checks import TEXTS, as_id, as_number, is_blank
from attnrec.ingestion.database import Workspace, one_row, quote_name, quote_text
from attnrec.ingestion.reader import read_files
from attnrec.ingestion.rejected import write_rejected
from attnrec.ingestion.scan import Scan
from attnrec.ingestion.source import ColumnType, IngestionError, TableSource, find_files

SQL_TYPES: dict[ColumnType, str] = {
    "category": "VARCHAR[]",
    "number": "DOUBLE",
    "text": "VARCHAR",
    "vector": "FLOAT[]",
}


def write_table(space: Workspace, source: TableSource, name: str) -> dict[str, Any]:
    """Write <name>.parquet (the first row of an id wins) and rejected_<name>/.

    Args:
        name: "items" or "users"; their id columns are item_id and user_id.

    Returns:
        The table's part of the manifest: counts, duplicates, and per column the values that did not parse
        (NULL in the table).

    Raises:
        IngestionError: for an empty or broken source, no good row, or vectors of two widths.
    """
    id_column = f"{name.removesuffix('s')}_id"
    _create_rows(space, source, id_column)

    def take(scan: Scan, first: int) -> None:
        space.database.execute(f"INSERT INTO rows {_typed_rows(scan, source, id_column, first)}")

    wanted = [source.id, *source.columns]
    files = read_files(space, source, find_files(source), wanted, take)
    _mark_duplicates(space)
    rejected = "SELECT arrival, reason, line FROM rows WHERE reason IS NOT NULL"
    reasons = write_rejected(space, rejected, space.folder / f"rejected_{name}", files)
    n_read, n_rejected = sum(file.n_rows for file in files), sum(reasons.values())
    if n_read == n_rejected:
        raise IngestionError(f"{name} must hold at least one good row, got none in {n_read}: {reasons}; check id")
    _check_widths(space, source)
    accepted = _write(space, source, space.folder / f"{name}.parquet", id_column)
    assert accepted + n_rejected == n_read, f"{accepted} accepted + {n_rejected} rejected != {n_read} read"
    return {
        "read": n_read,
        "accepted": accepted,
        "rejected": n_rejected,
        "rejected_by_reason": reasons,
        "duplicates": reasons.get("duplicate", 0),
        "unparsable": _unparsable(space, source),
        "columns": dict(source.columns),
        "files": [{"name": file.name, "read": file.n_rows} for file in files],
    }


def _create_rows(space: Workspace, source: TableSource, id_column: str) -> None:
    if id_column in map(str.lower, source.columns):
        raise IngestionError(f"columns must not hold {id_column!r}, the name of the id; leave it out of columns")
    types = (f", c{i} {SQL_TYPES[kind]}, bad{i} BOOLEAN" for i, kind in enumerate(source.columns.values()))
    columns = "arrival BIGINT, id VARCHAR, reason VARCHAR, line VARCHAR" + "".join(types)
    space.database.execute(f"CREATE OR REPLACE TEMP TABLE rows ({columns})")


def _typed_rows(scan: Scan, source: TableSource, id_column: str, first: int) -> str:
    """Rows of a scan as (arrival, id, reason, line, per column its value and whether it did not parse)."""
    parts = []
    for i, (kind, found) in enumerate(zip(source.columns.values(), scan.types[1:], strict=True)):
        value = f"v{i + 1}"
        typed = _typed(value, found, kind, source.separator)
        parts.append(f"{typed} AS c{i}, {typed} IS NULL AND NOT {is_blank(value, found)} AS bad{i}")
    identity = as_id("v0", scan.types[0])
    undecodable = f"WHEN v0 IS NOT NULL AND {identity} IS NULL THEN 'not UTF-8'" if scan.types[0] == "BLOB" else ""
    reason = (
        f"CASE WHEN problem IS NOT NULL THEN problem {undecodable} "
        f"WHEN {is_blank(identity, 'VARCHAR')} THEN 'missing {id_column}' END"
    )
    columns = "".join(f", {part}" for part in parts)
    return f"""SELECT {first} + row - 1, {identity}, {reason} AS reason,
        {scan.original} AS line{columns} FROM {scan.relation}"""


def _typed(value: str, found: str, kind: ColumnType, separator: str) -> str:
    """SQL from a source value of DuckDB type `found` to the declared type, NULL where it does not parse."""
    if kind == "number":
        return as_number(value)
    if kind == "text":
        return as_id(value, found)
    if found.endswith("]"):
        return _list_value(value, kind)
    if kind == "category":
        values = f"string_split({as_id(value, found)}, {quote_text(separator)})"
        if found == "JSON":
            listed = f"json_valid({value}) AND starts_with({value}, '[')"
            values = f"""CASE WHEN {listed} THEN from_json({value}, '["VARCHAR"]') ELSE {values} END"""
        return _without_blanks(values)
    if found not in TEXTS:
        return "NULL::FLOAT[]"
    numbers = f"regexp_extract_all({value}, '[^\\[\\](){{}}\\s,;|]+')"
    return _finite(f"TRY_CAST({numbers} AS FLOAT[])")


def _list_value(value: str, kind: ColumnType) -> str:
    if kind == "category":
        return _without_blanks(f"{value}::VARCHAR[]")
    return _finite(f"TRY_CAST({value} AS FLOAT[])")


def _without_blanks(values: str) -> str:
    """A list of trimmed texts, NULL where nothing is left."""
    trimmed = f"list_transform({values}, lambda x: trim(x))"
    kept = f"list_filter({trimmed}, lambda x: x <> '')"
    return f"CASE WHEN len({kept}) > 0 THEN {kept} END"


def _finite(vector: str) -> str:
    broken = f"list_filter({vector}, lambda x: x IS NULL OR NOT isfinite(x))"
    return f"CASE WHEN len({vector}) > 0 AND len({broken}) = 0 THEN {vector} END"


def _mark_duplicates(space: Workspace) -> None:
    space.database.execute(
        """UPDATE rows SET reason = 'duplicate' WHERE reason IS NULL AND arrival NOT IN
        (SELECT min(arrival) FROM rows WHERE reason IS NULL GROUP BY id)"""
    )


def _check_widths(space: Workspace, source: TableSource) -> None:
    for i, (column, kind) in enumerate(source.columns.items()):
        if kind == "vector":
            low, high = one_row(space.database, f"SELECT min(len(c{i})), max(len(c{i})) FROM rows WHERE reason IS NULL")
            if low != high:
                raise IngestionError(
                    f"all vectors of a column must have one width, got {low} and {high} in {column!r}; "
                    "correct the source"
                )


def _write(space: Workspace, source: TableSource, path: Path, id_column: str) -> int:
    columns = [
        f"id AS {id_column}",
        *(f"c{i} AS {quote_name(name)}" for i, name in enumerate(source.columns)),
    ]
    (count,) = one_row(
        space.database,
        f"""COPY (SELECT {", ".join(columns)} FROM rows WHERE reason IS NULL ORDER BY arrival)
        TO {quote_text(path)} (FORMAT parquet, COMPRESSION zstd)""",
    )
    return count


def _unparsable(space: Workspace, source: TableSource) -> dict[str, int]:
    counts = [f"count(*) FILTER (bad{i})" for i in range(len(source.columns))]
    values: Sequence[int] = ()
    if counts:
        values = one_row(space.database, f"SELECT {', '.join(counts)} FROM rows WHERE reason IS NULL")
    return {name: n for name, n in zip(source.columns, values, strict=True) if n}
