"""Parquet as a scan: typed columns and the row numbers of the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnrec.ingestion.database import one_row, quote_files, quote_name
from attnrec.ingestion.scan import Scan, as_values, resolve_columns
from attnrec.ingestion.source import IngestionError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def parquet_scan(database: "DuckDBPyConnection", file: Path, selected: Sequence[str], row_number: str | None) -> Scan:
    """Return one scan of a whole Parquet file.

    Args:
        database: the DuckDB connection.
        file: the Parquet file.
        selected: the columns to read.
        row_number: column that is excluded from the fingerprint.

    Raises:
        IngestionError: for a truncated file or a missing column.
    """
    _check_complete(file)
    table = f"read_parquet({quote_files([file])}, file_row_number=true, hive_partitioning=false)"
    described = database.execute(f"DESCRIBE SELECT * EXCLUDE (file_row_number) FROM {table}").fetchall()
    (n_rows,) = one_row(database, f"SELECT count(*) FROM {table}")
    types: dict[str, str] = {name: kind for name, kind, *_ in described}
    resolved = resolve_columns(selected, list(types), file)
    hashed = ", ".join(quote_name(name) for name in types if name != row_number)
    packed = ", ".join(f"{quote_name(name)} := {quote_name(name)}" for name in types)
    values = as_values([quote_name(name) for name in resolved])
    relation = f"""(SELECT file_row_number + 1 AS row, NULL::VARCHAR AS problem,
        hash({hashed}) AS fingerprint, struct_pack({packed}) AS source, {values}
        FROM {table})"""
    kinds = tuple(types[name] for name in resolved)
    return Scan(relation, "to_json(source)::VARCHAR", kinds, n_rows, progress=1.0)


def _check_complete(file: Path) -> None:
    with file.open("rb") as content:
        head = content.read(4)
        content.seek(max(file.stat().st_size - 4, 0))
        tail = content.read()
    if (head, tail) != (b"PAR1", b"PAR1"):
        raise IngestionError(
            f"a Parquet file must begin and end with PAR1, got an incomplete file {file}; replace the file"
        )
