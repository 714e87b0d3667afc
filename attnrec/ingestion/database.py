"""DuckDB, the engine of this package: one bounded in-memory database per run, and its errors in our words."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnrec.ingestion.progress import Step
from attnrec.ingestion.source import IngestionError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "2GB"
MOST_THREADS = 8
NO_ROOM = ("no space left", "file too large", "disk quota", "max_temp_directory_size", "failed to offload")


@dataclass(frozen=True)
class Workspace:
    """What a run works with: its database, the `folder` it fills, `work` for what is thrown away, its bar."""

    database: "DuckDBPyConnection"
    folder: Path
    work: Path
    step: Step


@contextmanager
def open_database(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """Give an empty database that spills into `folder` when its 2 GB are not enough; times are UTC.

    Raises:
        OSError: with errno ENOSPC when a statement found no room on the disk.
    """
    import duckdb

    settings = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(folder),
        "threads": min(os.cpu_count() or 1, MOST_THREADS),
        "autoinstall_known_extensions": False,
    }
    database = duckdb.connect(config=settings)
    try:
        database.execute("SET TimeZone = 'UTC'")
        yield database
    except duckdb.Error as error:
        if any(words in str(error).lower() for words in NO_ROOM):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise
    finally:
        database.close()


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Name `file` in what goes wrong while it is read.

    Raises:
        IngestionError: for content that DuckDB or gzip cannot read.
    """
    import zlib

    import duckdb

    broken = (duckdb.InvalidInputException, duckdb.IOException, duckdb.SerializationException)
    try:
        yield
    except (*broken, duckdb.ConversionException, EOFError, zlib.error) as error:
        if any(words in str(error).lower() for words in NO_ROOM):
            raise
        raise IngestionError(f"a file must be readable, {file} is not: {error}; deliver it again") from error
    except OSError as error:
        if error.errno is not None:  # the disk's, not gzip's
            raise
        raise IngestionError(f"a .gz file must be whole, {file} is not: {error}; deliver it again") from error


def quote_name(name: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(value: str | Path) -> str:
    """A text as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def quote_files(paths: Sequence[Path]) -> str:
    """Paths as an SQL list; letters that DuckDB takes for a glob stand for themselves."""
    return "[" + ", ".join(quote_text(_unglobbed(path)) for path in paths) + "]"


def one_row(database: "DuckDBPyConnection", sql: str) -> tuple[Any, ...]:
    """Run a query that gives exactly one row."""
    row = database.execute(sql).fetchone()
    assert row is not None
    return row


def _unglobbed(path: Path) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))
