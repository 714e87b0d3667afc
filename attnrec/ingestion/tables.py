"""Tables of items and users: validated, with one row per id and columns of the declared types."""

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


def write_table(workspace: Workspace, source: TableSource, name: str) -> dict[str, Any]:
    """Write <name>.parquet and rejected_<name>/. Of several rows with the same id, the first is kept.

    Args:
        workspace: database, output folder and temporary folder.
        source: files and columns of the table.
        name: "items" or "users"; the id columns are item_id and user_id.

    Returns:
        The table's entry in the manifest: numbers of rows and duplicates, and by column the number of values that could
        not be parsed, which are NULL in the table.

    Raises:
        IngestionError: for an empty or unreadable source, no valid row, or vectors of different widths.
    """
    id_column = f"{name.removesuffix('s')}_id"
    _create_rows(workspace, source, id_column)

    def process(scan: Scan, first: int) -> None:
        workspace.database.execute(f"INSERT INTO rows {_typed_rows(scan, source, id_column, first)}")

    selected = [source.id, *source.columns]
    files = read_files(workspace, source, find_files(source), selected, process)
    _mark_duplicates(workspace)
    rejected = "SELECT arrival, reason, line FROM rows WHERE reason IS NOT NULL"
    reasons = write_rejected(workspace, rejected, workspace.folder / f"rejected_{name}", files)
    n_read, n_rejected = sum(file.n_rows for file in files), sum(reasons.values())
    if n_read == n_rejected:
        raise IngestionError(
            f"{name} must have at least one valid row, got {n_read} rejected rows: {reasons}; check id"
        )
    _check_widths(workspace, source)
    accepted = _write(workspace, source, workspace.folder / f"{name}.parquet", id_column)
    assert accepted + n_rejected == n_read, f"{accepted} accepted + {n_rejected} rejected != {n_read} read"
    return {
        "read": n_read,
        "accepted": accepted,
        "rejected": n_rejected,
        "rejected_by_reason": reasons,
        "duplicates": reasons.get("duplicate", 0),
        "unparsable": _unparsable(workspace, source),
        "columns": dict(source.columns),
        "files": [{"name": file.name, "read": file.n_rows} for file in files],
    }


def _create_rows(workspace: Workspace, source: TableSource, id_column: str) -> None:
    if id_column in map(str.lower, source.columns):
        raise IngestionError(
            f"columns must not contain the name of the id column, got {id_column!r}; remove it from columns"
        )
    types = (f", c{i} {SQL_TYPES[kind]}, failed{i} BOOLEAN" for i, kind in enumerate(source.columns.values()))
    columns = "arrival BIGINT, id VARCHAR, reason VARCHAR, line VARCHAR" + "".join(types)
    workspace.database.execute(f"CREATE OR REPLACE TEMP TABLE rows ({columns})")


def _typed_rows(scan: Scan, source: TableSource, id_column: str, first: int) -> str:
    """SQL: the rows of a scan as (arrival, id, reason, line, then per column the value and whether parsing failed)."""
    parts = []
    for i, (kind, source_type) in enumerate(zip(source.columns.values(), scan.types[1:], strict=True)):
        value = f"v{i + 1}"
        typed = _typed(value, source_type, kind, source.separator)
        parts.append(f"{typed} AS c{i}, {typed} IS NULL AND NOT {is_blank(value, source_type)} AS failed{i}")
    id_text = as_id("v0", scan.types[0])
    undecodable = (
        f"WHEN v0 IS NOT NULL AND {id_text} IS NULL THEN 'undecodable text'" if scan.types[0] == "BLOB" else ""
    )
    reason = (
        f"CASE WHEN problem IS NOT NULL THEN problem {undecodable} "
        f"WHEN {is_blank(id_text, 'VARCHAR')} THEN 'missing {id_column}' END"
    )
    columns = "".join(f", {part}" for part in parts)
    return f"""SELECT {first} + row - 1, {id_text}, {reason} AS reason,
        {scan.source_text} AS line{columns} FROM {scan.relation}"""


def _typed(value: str, source_type: str, kind: ColumnType, separator: str) -> str:
    """SQL: a source value of DuckDB type `source_type` as the declared type, NULL where it cannot be parsed."""
    if kind == "number":
        return as_number(value)
    if kind == "text":
        return as_id(value, source_type)
    if source_type.endswith("]"):
        return _list_value(value, kind)
    if kind == "category":
        values = f"string_split({as_id(value, source_type)}, {quote_text(separator)})"
        if source_type == "JSON":
            listed = f"json_valid({value}) AND starts_with({value}, '[')"
            values = f"""CASE WHEN {listed} THEN from_json({value}, '["VARCHAR"]') ELSE {values} END"""
        return _without_blanks(values)
    if source_type not in TEXTS:
        return "NULL::FLOAT[]"
    numbers = f"regexp_extract_all({value}, '[^\\[\\](){{}}\\s,;|]+')"
    return _finite(f"TRY_CAST({numbers} AS FLOAT[])")


def _list_value(value: str, kind: ColumnType) -> str:
    if kind == "category":
        return _without_blanks(f"{value}::VARCHAR[]")
    return _finite(f"TRY_CAST({value} AS FLOAT[])")


def _without_blanks(values: str) -> str:
    """SQL: a list of trimmed texts without empty ones, NULL for an empty list."""
    trimmed = f"list_transform({values}, lambda x: trim(x))"
    filtered = f"list_filter({trimmed}, lambda x: x <> '')"
    return f"CASE WHEN len({filtered}) > 0 THEN {filtered} END"


def _finite(vector: str) -> str:
    """SQL: a vector, NULL where it is empty or has a value that is not a finite number."""
    invalid = f"list_filter({vector}, lambda x: x IS NULL OR NOT isfinite(x))"
    return f"CASE WHEN len({vector}) > 0 AND len({invalid}) = 0 THEN {vector} END"


def _mark_duplicates(workspace: Workspace) -> None:
    workspace.database.execute(
        """UPDATE rows SET reason = 'duplicate' WHERE reason IS NULL AND arrival NOT IN
        (SELECT min(arrival) FROM rows WHERE reason IS NULL GROUP BY id)"""
    )


def _check_widths(workspace: Workspace, source: TableSource) -> None:
    for i, (column, kind) in enumerate(source.columns.items()):
        if kind == "vector":
            low, high = one_row(
                workspace.database, f"SELECT min(len(c{i})), max(len(c{i})) FROM rows WHERE reason IS NULL"
            )
            if low != high:
                raise IngestionError(
                    f"all vectors of a column must have the same width, got {low} and {high} in {column!r}; "
                    "fix the source"
                )


def _write(workspace: Workspace, source: TableSource, path: Path, id_column: str) -> int:
    columns = [
        f"id AS {id_column}",
        *(f"c{i} AS {quote_name(name)}" for i, name in enumerate(source.columns)),
    ]
    (count,) = one_row(
        workspace.database,
        f"""COPY (SELECT {", ".join(columns)} FROM rows WHERE reason IS NULL ORDER BY arrival)
        TO {quote_text(path)} (FORMAT parquet, COMPRESSION zstd)""",
    )
    return count


def _unparsable(workspace: Workspace, source: TableSource) -> dict[str, int]:
    counts = [f"count(*) FILTER (failed{i})" for i in range(len(source.columns))]
    values: Sequence[int] = ()
    if counts:
        values = one_row(workspace.database, f"SELECT {', '.join(counts)} FROM rows WHERE reason IS NULL")
    return {name: n for name, n in zip(source.columns, values, strict=True) if n}
