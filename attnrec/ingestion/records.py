"""Rewrite a text file to one record per line, so that SQL can number and validate every row.

DuckDB's CSV reader drops rows after a quote that is never closed, stops at mixed line endings, and numbers
rejected rows by line. Therefore text is rewritten before DuckDB reads it: blocks without quotes are copied unchanged
(0.15 s per million rows), other records get a mark in front:

    SPLIT       fields separated by FIELD_SEPARATOR, with line breaks inside fields replaced by LINE_BREAK
    UNREADABLE  the text of a row that cannot be read
    UNDECODABLE the text of a row that is not in the declared encoding
"""

import codecs
import csv
import gzip
import io
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TextIO

NO_DELIMITER, SPLIT, UNREADABLE, UNDECODABLE, FIELD_SEPARATOR, LINE_BREAK = RESERVED = "\x11\x12\x13\x14\x15\x16"
"""Control characters that logs do not contain; a row with one is unreadable. NO_DELIMITER never occurs."""

BLOCK_CHARACTERS = 2**20
CHUNK_BYTES = 128 * 2**20
MAX_RECORD_LINES = 1000
MAX_SHOWN_CHARACTERS = 10_000


@dataclass(frozen=True)
class Dialect:
    """The dialect of a text file.

    Attributes:
        delimiter: the field delimiter; None where a line is one value (JSON Lines).
        quoted: whether fields may be quoted, as in CSV.
        encoding: the text encoding.
        n_columns: number of fields of a valid record; 0 before the header is read.
    """

    delimiter: str | None
    quoted: bool
    encoding: str
    n_columns: int = 0


@dataclass(frozen=True)
class Chunk:
    """A part of a text file, rewritten to one record per line.

    Attributes:
        path: the rewritten part.
        rows_before: number of data rows in the earlier parts.
        n_rows: number of rows in this part.
        plain: whether no line has a mark.
        progress: fraction of the source file that has been read, 0 to 1.
    """

    path: Path
    rows_before: int
    n_rows: int
    plain: bool
    progress: float


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:  # bytes below 128, as in UTF-16
        assert isinstance(error, UnicodeDecodeError)
        return "\udcff", error.end


codecs.register_error("attnrec.escape", _escape)


@contextmanager
def open_text(file: Path, dialect: Dialect) -> Iterator[tuple[TextIO, BinaryIO]]:
    """Yield the decompressed text (line endings as \\n, undecodable bytes as surrogates) and the underlying file."""
    encoding = "utf-8-sig" if codecs.lookup(dialect.encoding).name == "utf-8" else dialect.encoding
    with file.open("rb") as raw, gzip.open(raw) if file.suffix.lower() == ".gz" else raw as content:
        yield io.TextIOWrapper(content, encoding=encoding, errors="attnrec.escape"), raw  # type: ignore[arg-type]


def read_header(text: TextIO, dialect: Dialect) -> list[str]:
    """Read the first record that is not blank; [] at the end of the file."""
    assert dialect.delimiter
    for line in iter(text.readline, ""):
        if line.strip():
            if dialect.quoted:
                return next(csv.reader(chain([line], iter(text.readline, "")), delimiter=dialect.delimiter))
            return line.rstrip("\n").split(dialect.delimiter)
    return []


def text_chunks(file: Path, dialect: Dialect, folder: Path, *, has_header: bool) -> Iterator[Chunk]:
    """Rewrite `file` chunk by chunk into `folder`; a chunk is deleted when the next one is requested.

    Raises:
        EOFError, OSError, zlib.error: for an invalid gzip file.
    """
    n_rows = 0
    size = file.stat().st_size
    with open_text(file, dialect) as (text, raw):
        if has_header:
            read_header(text, dialect)
        while block := _whole_lines(text):
            path = folder / "chunk.txt"
            rows, plain = _write_chunk(path, block, text, dialect)
            if rows:
                yield Chunk(path, n_rows, rows, plain, progress=raw.tell() / size)
            n_rows += rows
            path.unlink()


def _write_chunk(path: Path, block: str, text: TextIO, dialect: Dialect) -> tuple[int, bool]:
    n_rows, plain = 0, True
    with path.open("wb") as chunk:
        while block:
            if (data := _encode_plain(block, dialect)) is not None:
                n_rows += data.count(b"\n")
                chunk.write(data)
            else:
                plain = False
                for record in _bulk_records(block, dialect) or _records(block, text, dialect):
                    n_rows += 1
                    chunk.write(record.encode() + b"\n")
            block = _whole_lines(text) if chunk.tell() < CHUNK_BYTES else ""
    return n_rows, plain


def _whole_lines(text: TextIO) -> str:
    """Read a block of about BLOCK_CHARACTERS that ends with a line; "" at the end of the file."""
    block = text.read(BLOCK_CHARACTERS)
    if block and not block.endswith("\n"):
        block += text.readline(BLOCK_CHARACTERS)
        if len(block) > BLOCK_CHARACTERS and not block.endswith("\n") and (rest := text.readline(BLOCK_CHARACTERS)):
            block += UNREADABLE  # an extremely long line is one unreadable row, and its middle is dropped
            while rest and not rest.endswith("\n"):
                rest = text.readline(BLOCK_CHARACTERS)
        if not block.endswith("\n"):
            block += "\n"
    return block


def _encode_plain(block: str, dialect: Dialect) -> bytes | None:
    """Return the encoded block, or None if a line needs a mark or is blank."""
    if (dialect.quoted and '"' in block) or block.startswith("\n") or "\n\n" in block or _has_reserved(block):
        return None
    try:
        return block.encode()
    except UnicodeEncodeError:
        return None


def _bulk_records(block: str, dialect: Dialect) -> list[str] | None:
    """Return all records of a block with valid quotes, else None (4 times faster than one by one)."""
    if not dialect.quoted or _has_reserved(block) or not _is_encodable(block):
        return None
    assert dialect.delimiter
    try:
        reader = csv.reader(io.StringIO(block, newline="\n"), delimiter=dialect.delimiter, strict=True)
        rows = [row for row in reader if row]
    except csv.Error:
        return None
    return [_split_record(row) for row in rows] if all(len(row) == dialect.n_columns for row in rows) else None


def _records(block: str, text: TextIO, dialect: Dialect) -> Iterator[str]:
    """Yield records one by one; continues reading from `text` if the last record is incomplete."""
    lines = deque(_lines(block))
    while lines:
        line = lines.popleft()
        if not line:
            continue
        if dialect.quoted and '"' in line:
            yield _quoted_record(line, lines, text, dialect)
        elif _has_reserved(line) or not _is_encodable(line):
            n_columns = line.count(dialect.delimiter) + 1 if dialect.delimiter else dialect.n_columns
            yield _invalid_record([line], dialect, n_columns)
        else:
            yield line


def _quoted_record(line: str, lines: deque[str], text: TextIO, dialect: Dialect) -> str:
    """Read one record with quotes. If it is invalid, only its first line is rejected."""
    record_lines = [line]
    assert dialect.delimiter

    def next_lines() -> Iterator[str]:
        yield line + "\n"
        while len(record_lines) < MAX_RECORD_LINES:
            if not lines and (more := _whole_lines(text)):
                lines.extend(_lines(more))
            if not lines:
                return
            record_lines.append(lines.popleft())
            yield record_lines[-1] + "\n"

    try:
        row = next(csv.reader(next_lines(), delimiter=dialect.delimiter, strict=True))
    except csv.Error:
        row = []
    if len(row) != dialect.n_columns:
        lines.extendleft(reversed(record_lines[1:]))
        return UNREADABLE + _printable(line)
    if any(_has_reserved(part) or not _is_encodable(part) for part in record_lines):
        return _invalid_record(record_lines, dialect, len(row))
    return _split_record(row)


def _invalid_record(lines: list[str], dialect: Dialect, n_columns: int) -> str:
    """Return a marked record with reserved or undecodable characters; an unreadable row takes precedence."""
    text = " ".join(lines)
    if n_columns != dialect.n_columns or _has_reserved(text):
        return UNREADABLE + _printable(text)
    return UNDECODABLE + _printable(text)


def _lines(block: str) -> list[str]:
    return block.removesuffix("\n").split("\n")


def _split_record(fields: list[str]) -> str:
    return SPLIT + FIELD_SEPARATOR.join(fields).replace("\n", LINE_BREAK)


def _has_reserved(text: str) -> bool:
    return any(character in text for character in RESERVED)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(line: str) -> str:
    """Return the text of an invalid row for output: undecodable bytes as \\xff, no reserved characters."""
    printable = line[:MAX_SHOWN_CHARACTERS].encode(errors="surrogateescape").decode(errors="backslashreplace")
    return printable.translate(dict.fromkeys(map(ord, RESERVED), "\ufffd"))
