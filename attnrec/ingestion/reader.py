"""Read the files of a source in order, in any format, as scans."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from attnrec.ingestion.database import Workspace, read_errors
from attnrec.ingestion.jsonl import json_scan, sampled_keys
from attnrec.ingestion.parquet import parquet_scan
from attnrec.ingestion.records import Dialect, open_text, read_header, text_chunks
from attnrec.ingestion.scan import Scan, resolve_columns
from attnrec.ingestion.source import RATINGS_DAT, Format, InteractionSource, Source, bare_suffix, format_of
from attnrec.ingestion.text import text_scan


@dataclass(frozen=True)
class SourceFile:
    """A source file that was read.

    Rows of all files are numbered consecutively from 0, the arrival number.

    Attributes:
        name: the file name.
        first: arrival number of its first row.
        n_rows: number of rows.
    """

    name: str
    first: int
    n_rows: int


def read_files(
    workspace: Workspace, source: Source, files: list[Path], selected: list[str], process: Callable[[Scan, int], None]
) -> list[SourceFile]:
    """Call `process` for every scan of `files`.

    Args:
        workspace: database and temporary folder.
        source: how the files are written.
        files: the files, in order.
        selected: source columns, in the order of the scan's columns.
        process: called with a scan and the arrival number of the first row of its file.

    Raises:
        IngestionError: for a file that cannot be read.
    """
    read: list[SourceFile] = []
    sizes = [file.stat().st_size for file in files]
    for i, file in enumerate(files):
        first = read[-1].first + read[-1].n_rows if read else 0
        n_rows = 0
        with read_errors(file):
            for scan in _scans(workspace, source, file, selected):
                process(scan, first)
                n_rows += scan.n_rows
                workspace.report_progress(
                    f"reading {file.name}", (sum(sizes[:i]) + scan.progress * sizes[i]) / sum(sizes)
                )
        read.append(SourceFile(file.name, first, n_rows))
    return read


def _scans(workspace: Workspace, source: Source, file: Path, selected: list[str]) -> Iterator[Scan]:
    """Yield scans of consecutive parts of the file; a scan is valid until the next one is requested."""
    kind = format_of(source, file)
    row_number = source.row_number if isinstance(source, InteractionSource) else None
    if kind == "parquet":
        yield parquet_scan(workspace.database, file, selected, row_number)
        return
    dialect = _dialect(source, file, kind)
    names = _names(source, kind)
    columns = list(names) if names is not None else _columns_in(file, dialect)
    resolved = resolve_columns(selected, columns, file) if columns else selected
    has_header = names is None and dialect.delimiter is not None
    dialect = replace(dialect, n_columns=len(columns))
    for chunk in text_chunks(file, dialect, workspace.work, has_header=has_header):
        if dialect.delimiter is None:
            yield json_scan(chunk, resolved, row_number)
        else:
            yield text_scan(chunk, columns, resolved, row_number, dialect.delimiter)


def _dialect(source: Source, file: Path, kind: Format) -> Dialect:
    if kind == "jsonl":
        return Dialect(delimiter=None, quoted=False, encoding=source.encoding)
    default = "::" if kind == "ratings.dat" else "\t" if bare_suffix(file) == ".tsv" else ","
    delimiter = source.delimiter or default
    return Dialect(delimiter, quoted=kind == "csv" and len(delimiter) == 1, encoding=source.encoding)


def _names(source: Source, kind: Format) -> tuple[str, ...] | None:
    if kind == "jsonl":
        return None
    default = RATINGS_DAT if kind == "ratings.dat" and isinstance(source, InteractionSource) else None
    return source.column_names or default


def _columns_in(file: Path, dialect: Dialect) -> list[str]:
    if dialect.delimiter is None:
        return sampled_keys(file, dialect)
    with open_text(file, dialect) as (text, _):
        return read_header(text, dialect)
