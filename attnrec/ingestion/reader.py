"""Files of a source, one after the other, as scans of whatever format they are in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from attnrec.ingestion.database import Workspace, reading
from attnrec.ingestion.jsonl import json_scan, sampled_keys
from attnrec.ingestion.parquet import parquet_scan
from attnrec.ingestion.records import Dialect, open_text, read_header, text_chunks
from attnrec.ingestion.scan import Scan, find_columns
from attnrec.ingestion.source import RATINGS_DAT, Format, InteractionSource, Source, bare_suffix, format_of
from attnrec.ingestion.text import text_scan


@dataclass(frozen=True)
class ReadFile:
    """A source file that was read: its first row has the number of arrival `first`."""

    name: str
    first: int
    n_rows: int


def read_files(
    space: Workspace, source: Source, files: list[Path], wanted: list[str], take: Callable[[Scan, int], None]
) -> list[ReadFile]:
    """Hand every scan of `files` to `take`, with the number of arrival of its file's first row.

    Args:
        wanted: source columns, in the order in which scans give them.

    Raises:
        IngestionError: naming the file that cannot be read.
    """
    done: list[ReadFile] = []
    sizes = [file.stat().st_size for file in files]
    for i, file in enumerate(files):
        first = done[-1].first + done[-1].n_rows if done else 0
        n_rows = 0
        with reading(file):
            for scan in _scans(space, source, file, wanted):
                take(scan, first)
                n_rows += scan.n_rows
                space.step(f"reading {file.name}", (sum(sizes[:i]) + scan.done * sizes[i]) / sum(sizes))
        done.append(ReadFile(file.name, first, n_rows))
    return done


def _scans(space: Workspace, source: Source, file: Path, wanted: list[str]) -> Iterator[Scan]:
    """The file part by part; each scan is good until the next is asked for."""
    kind = format_of(source, file)
    row_number = source.row_number if isinstance(source, InteractionSource) else None
    if kind == "parquet":
        yield parquet_scan(space.database, file, wanted, row_number)
        return
    dialect = _dialect(source, file, kind)
    names = _names(source, kind)
    columns = list(names) if names is not None else _columns_in(file, dialect)
    found = find_columns(wanted, columns, file) if columns else wanted
    has_header = names is None and dialect.delimiter is not None
    dialect = replace(dialect, n_columns=len(columns))
    for chunk in text_chunks(file, dialect, space.work, has_header=has_header):
        if dialect.delimiter is None:
            yield json_scan(chunk, found, row_number)
        else:
            yield text_scan(chunk, columns, found, row_number, dialect.delimiter)


def _dialect(source: Source, file: Path, kind: Format) -> Dialect:
    if kind == "jsonl":
        return Dialect(delimiter=None, quoted=False, encoding=source.encoding)
    usual = "::" if kind == "ratings.dat" else "\t" if bare_suffix(file) == ".tsv" else ","
    delimiter = source.delimiter or usual
    return Dialect(delimiter, quoted=kind == "csv" and len(delimiter) == 1, encoding=source.encoding)


def _names(source: Source, kind: Format) -> tuple[str, ...] | None:
    if kind == "jsonl":
        return None
    usual = RATINGS_DAT if kind == "ratings.dat" and isinstance(source, InteractionSource) else None
    return source.names or usual


def _columns_in(file: Path, dialect: Dialect) -> list[str]:
    if dialect.delimiter is None:
        return sampled_keys(file, dialect)
    with open_text(file, dialect) as (text, _):
        return read_header(text, dialect)
