"""Parquet as a scan: typed columns, rows numbered by the format itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnrec.ingestion.database import one_row, quote_files, quote_name
from attnrec.ingestion.scan import Scan, as_values, find_columns
from attnrec.ingestion.source import IngestionError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def parquet_scan(database: "DuckDBPyConnection", file: Path, wanted: Sequence[str], row_number: str | None) -> Scan:
    """Read a whole Parquet file in one scan.

    Args:
        row_number: column that the fingerprint leaves out.

    Raises:
        IngestionError: for a truncated file or a missing column.
    """
    _check_whole(file)
    table = f"read_parquet({quote_files([file])}, file_row_number=true, hive_partitioning=false)"
    described = database.execute(f"DESCRIBE SELECT * EXCLUDE (file_row_number) FROM {table}").fetchall()
    (n_rows,) = one_row(database, f"SELECT count(*) FROM {table}")
    types: dict[str, str] = {name: kind for name, kind, *_ in described}
    found = find_columns(wanted, list(types), file)
    hashed = ", ".join(quote_name(name) for name in types if name != row_number)
    packed = ", ".join(f"{quote_name(name)} := {quote_name(name)}" for name in types)
    values = as_values([quote_name(name) for name in found])
    relation = f"""(SELECT file_row_number + 1 AS row, NULL::VARCHAR AS problem,
        hash({hashed}) AS fingerprint, struct_pack({packed}) AS source, {values}
        FROM {table})"""
    kinds = tuple(types[name] for name in found)
    return Scan(relation, "to_json(source)::VARCHAR", kinds, n_rows, done=1.0)


def _check_whole(file: Path) -> None:
    with file.open("rb") as content:
        head = content.read(4)
        content.seek(max(file.stat().st_size - 4, 0))
        tail = content.read()
    if (head, tail) != (b"PAR1", b"PAR1"):
        raise IngestionError(
            f"a Parquet file begins and ends with PAR1, {file} is not a whole Parquet file (cut off?); deliver it again"
        )
