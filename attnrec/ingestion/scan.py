"""Scan: the common SQL form of all file formats, with row numbers, read errors and the selected columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnrec.ingestion.source import IngestionError
from attnrec.schema import ALIASES


@dataclass(frozen=True)
class Scan:
    """One part of a source as SQL.

    Attributes:
        relation: SQL for a FROM clause. Columns: row (row number in the file, from 1), problem (why the row cannot be
            read, or NULL), fingerprint (hash of the source row without its row number), v0, v1, ... (the selected
            columns).
        source_text: SQL expression for the source row as text; expensive, use it for rejected rows only.
        types: DuckDB type of v0, v1, ...; "JSON" is text from a JSON value.
        n_rows: number of rows, counted independently of the relation.
        progress: fraction of the file that is read after this scan, 0 to 1.
    """

    relation: str
    source_text: str
    types: tuple[str, ...]
    n_rows: int
    progress: float


def _advice(columns: Sequence[str]) -> str:
    """Name the setting that helps when a column is missing."""
    if len(columns) == 1:
        found = [delimiter for delimiter in (";", "\t", "|", ",") if delimiter in columns[0]]
        if found:
            return f"set delimiter = {found[0]!r}"
    return "set the right column name or delimiter"


def resolve_columns(selected: Sequence[str], columns: Sequence[str], file: Path) -> list[str]:
    """Return the source column of each selected name; columns may be named by an alias (`schema.ALIASES`).

    Raises:
        IngestionError: for a missing column.
    """
    resolved = []
    for name in selected:
        candidates = [name, *(alias for alias, column in ALIASES.items() if column == name)]
        present = [candidate for candidate in candidates if candidate in columns]
        if not present:
            raise IngestionError(
                f"the source must have the column {name!r}, got {list(columns)} in {file.name}; {_advice(columns)}"
            )
        resolved.append(present[0])
    return resolved


def as_values(expressions: Sequence[str]) -> str:
    """Return the expressions named v0, v1, ... for a SELECT clause."""
    return ", ".join(f"{expression} AS v{i}" for i, expression in enumerate(expressions))
