"""DuckDB: one in-memory database with a memory limit per run, SQL quoting, and translation of its errors."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnrec.ingestion.progress import ProgressCallback
from attnrec.ingestion.source import IngestionError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "2GB"
MAX_THREADS = 8
DISK_FULL_MESSAGES = ("no space left", "file too large", "disk quota", "max_temp_directory_size", "failed to offload")


@dataclass(frozen=True)
class Workspace:
    """State of one run.

    Attributes:
        database: the DuckDB connection.
        folder: the output folder.
        work: folder of temporary files.
        report_progress: moves the progress bar.
    """

    database: "DuckDBPyConnection"
    folder: Path
    work: Path
    report_progress: ProgressCallback


@contextmanager
def open_database(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """Yield an empty database with a memory limit of 2 GB that spills to `folder`. Its time zone is UTC.

    Raises:
        OSError: with errno ENOSPC when the disk is full.
    """
    import duckdb

    settings = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(folder),
        "threads": min(os.cpu_count() or 1, MAX_THREADS),
        "autoinstall_known_extensions": False,
    }
    database = duckdb.connect(config=settings)
    try:
        database.execute("SET TimeZone = 'UTC'")
        yield database
    except duckdb.Error as error:
        if any(message in str(error).lower() for message in DISK_FULL_MESSAGES):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise
    finally:
        database.close()


@contextmanager
def read_errors(file: Path) -> Iterator[None]:
    """Turn read errors inside the block into an error that names `file`.

    Raises:
        IngestionError: for content that DuckDB or gzip cannot read.
    """
    import zlib

    import duckdb

    unreadable = (duckdb.InvalidInputException, duckdb.IOException, duckdb.SerializationException)
    try:
        yield
    except (*unreadable, duckdb.ConversionException, EOFError, zlib.error) as error:
        if any(message in str(error).lower() for message in DISK_FULL_MESSAGES):
            raise
        raise IngestionError(
            f"a source file must be readable, got an error in {file}: {error}; replace the file"
        ) from error
    except OSError as error:
        if error.errno is not None:  # an error of the file system, not of gzip
            raise
        raise IngestionError(
            f"a .gz file must be complete, got an error in {file}: {error}; replace the file"
        ) from error


def quote_name(name: str) -> str:
    """Return a column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(value: str | Path) -> str:
    """Return a string as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def quote_files(paths: Sequence[Path]) -> str:
    """Return paths as an SQL list; glob characters in file names are escaped."""
    return "[" + ", ".join(quote_text(_escape_glob(path)) for path in paths) + "]"


def one_row(database: "DuckDBPyConnection", sql: str) -> tuple[Any, ...]:
    """Run a query that returns exactly one row, and return the row."""
    row = database.execute(sql).fetchone()
    assert row is not None
    return row


def _escape_glob(path: Path) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in str(path))
