"""Every format becomes the same SQL relation: numbered rows, what is wrong with them, and wanted columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnrec.ingestion.source import IngestionError
from attnrec.schema import ALIASES


@dataclass(frozen=True)
class Scan:
    """One part of a source as SQL.

    Attributes:
        relation: what to put after FROM. Columns: row (1-based, of the file), problem (a reason or NULL),
            fingerprint (a hash of the source row, without its row number), v0, v1, ... (the wanted columns).
        original: expression for the source row as text; worth computing for bad rows only.
        types: DuckDB type of v0, v1, ...; "JSON" is text that came out of a JSON value.
        n_rows: how many rows the relation has, counted without it.
        done: how much of the file is read after this scan, 0 to 1.
    """

    relation: str
    original: str
    types: tuple[str, ...]
    n_rows: int
    done: float


def find_columns(wanted: Sequence[str], columns: Sequence[str], file: Path) -> list[str]:
    """Find each wanted column among those of the source, under its name or an alias (`schema.ALIASES`).

    Raises:
        IngestionError: naming the columns found.
    """
    found = []
    for name in wanted:
        candidates = [name, *(alias for alias, meant in ALIASES.items() if meant == name)]
        present = [candidate for candidate in candidates if candidate in columns]
        if not present:
            raise IngestionError(
                f"the source must have the column {name!r}, got {list(columns)} in {file.name}; "
                "name the right column (or the delimiter) in the experiment"
            )
        found.append(present[0])
    return found


def as_values(expressions: Sequence[str]) -> str:
    """Name expressions v0, v1, ... for a SELECT."""
    return ", ".join(f"{expression} AS v{i}" for i, expression in enumerate(expressions))
