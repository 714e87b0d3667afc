"""A text file as one record per line, so that rows can be numbered and checked in SQL without losing one.

DuckDB's CSV reader drops rows after a quote that is never closed, stops at mixed line ends, and numbers
rejected rows by line. So the text is brought to a form that it cannot misread: blocks without quotes are
copied as they are (0.15 s per million rows), other records get a mark in front:

    SPLIT       fields separated by FIELD, line breaks inside them written as BREAK
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

READER, SPLIT, UNREADABLE, UNDECODABLE, FIELD, BREAK = RESERVED = "\x11\x12\x13\x14\x15\x16"
"""Control letters that no log uses; a row with one is unreadable. READER is a delimiter that never occurs."""

BLOCK = 2**20
CHUNK = 128 * 2**20
LONGEST_RECORD_LINES = 1000
SHOWN = 10_000


@dataclass(frozen=True)
class Dialect:
    """How a text file is written: `delimiter` None where the line is one value, `quoted` for CSV.

    `n_columns` is what a good record with quotes has; 0 while the header is not yet read.
    """

    delimiter: str | None
    quoted: bool
    encoding: str
    n_columns: int = 0


@dataclass(frozen=True)
class Chunk:
    """A part of a text file, one record per line; `rows_before` counts the data rows of the parts before.

    `plain` says that no line has a mark, `done` how much of the source was read, 0 to 1.
    """

    path: Path
    rows_before: int
    n_rows: int
    plain: bool
    done: float


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:  # bytes below 128, as in UTF-16
        assert isinstance(error, UnicodeDecodeError)
        return "\udcff", error.end


codecs.register_error("attnrec.escape", _escape)


@contextmanager
def open_text(file: Path, dialect: Dialect) -> Iterator[tuple[TextIO, BinaryIO]]:
    """Open text (unpacked, line ends as \\n, bytes that do not decode as surrogates) and the file below."""
    encoding = "utf-8-sig" if codecs.lookup(dialect.encoding).name == "utf-8" else dialect.encoding
    with file.open("rb") as raw, gzip.open(raw) if file.suffix.lower() == ".gz" else raw as content:
        yield io.TextIOWrapper(content, encoding=encoding, errors="attnrec.escape"), raw  # type: ignore[arg-type]


def read_header(text: TextIO, dialect: Dialect) -> list[str]:
    """Take the first record that is not blank; [] at the end of the file."""
    assert dialect.delimiter
    for line in iter(text.readline, ""):
        if line.strip():
            if dialect.quoted:
                return next(csv.reader(chain([line], iter(text.readline, "")), delimiter=dialect.delimiter))
            return line.rstrip("\n").split(dialect.delimiter)
    return []


def text_chunks(file: Path, dialect: Dialect, folder: Path, *, has_header: bool) -> Iterator[Chunk]:
    """Write `file` into `folder` chunk by chunk; a chunk is deleted when the next is asked for.

    Raises:
        EOFError, OSError, zlib.error: for a broken gzip file.
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
                yield Chunk(path, n_rows, rows, plain, done=raw.tell() / size)
            n_rows += rows
            path.unlink()


def _write_chunk(path: Path, block: str, text: TextIO, dialect: Dialect) -> tuple[int, bool]:
    n_rows, plain = 0, True
    with path.open("wb") as chunk:
        while block:
            if (data := _plain(block, dialect)) is not None:
                n_rows += data.count(b"\n")
                chunk.write(data)
            else:
                plain = False
                for record in _bulk_records(block, dialect) or _records(block, text, dialect):
                    n_rows += 1
                    chunk.write(record.encode() + b"\n")
            block = _whole_lines(text) if chunk.tell() < CHUNK else ""
    return n_rows, plain


def _whole_lines(text: TextIO) -> str:
    block = text.read(BLOCK)
    if block and not block.endswith("\n"):
        block += text.readline(BLOCK)
        if len(block) > BLOCK and not block.endswith("\n") and (rest := text.readline(BLOCK)):
            block += UNREADABLE  # a line beyond all measure: one bad row, its middle dropped
            while rest and not rest.endswith("\n"):
                rest = text.readline(BLOCK)
        if not block.endswith("\n"):
            block += "\n"
    return block


def _plain(block: str, dialect: Dialect) -> bytes | None:
    """The block as it is, or None where some line needs a closer look."""
    if (dialect.quoted and '"' in block) or block.startswith("\n") or "\n\n" in block or _has_reserved(block):
        return None
    try:
        return block.encode()
    except UnicodeEncodeError:
        return None


def _bulk_records(block: str, dialect: Dialect) -> list[str] | None:
    """All records of a block that is whole and well quoted, else None (4 times faster than one by one)."""
    if not dialect.quoted or _has_reserved(block) or not _encodes(block):
        return None
    assert dialect.delimiter
    try:
        reader = csv.reader(io.StringIO(block, newline="\n"), delimiter=dialect.delimiter, strict=True)
        rows = [row for row in reader if row]
    except csv.Error:
        return None
    return [_split_record(row) for row in rows] if all(len(row) == dialect.n_columns for row in rows) else None


def _records(block: str, text: TextIO, dialect: Dialect) -> Iterator[str]:
    """Records one by one; reads on from `text` where the last one is not complete."""
    lines = deque(_lines(block))
    while lines:
        line = lines.popleft()
        if not line:
            continue
        if dialect.quoted and '"' in line:
            yield _quoted_record(line, lines, text, dialect)
        elif _has_reserved(line) or not _encodes(line):
            n_columns = line.count(dialect.delimiter) + 1 if dialect.delimiter else dialect.n_columns
            yield _bad_record([line], dialect, n_columns)
        else:
            yield line


def _quoted_record(line: str, lines: deque[str], text: TextIO, dialect: Dialect) -> str:
    """Read one record with quotes. Where it makes no good row, only its first line is bad."""
    taken = [line]
    assert dialect.delimiter

    def following() -> Iterator[str]:
        yield line + "\n"
        while len(taken) < LONGEST_RECORD_LINES:
            if not lines and (more := _whole_lines(text)):
                lines.extend(_lines(more))
            if not lines:
                return
            taken.append(lines.popleft())
            yield taken[-1] + "\n"

    try:
        row = next(csv.reader(following(), delimiter=dialect.delimiter, strict=True))
    except csv.Error:
        row = []
    if len(row) != dialect.n_columns:
        lines.extendleft(reversed(taken[1:]))
        return UNREADABLE + _shown(line)
    if any(_has_reserved(part) or not _encodes(part) for part in taken):
        return _bad_record(taken, dialect, len(row))
    return _split_record(row)


def _bad_record(lines: list[str], dialect: Dialect, n_columns: int) -> str:
    """A record with letters that cannot be, marked with the first of its reasons."""
    text = " ".join(lines)
    if n_columns != dialect.n_columns or _has_reserved(text):
        return UNREADABLE + _shown(text)
    return UNDECODABLE + _shown(text)


def _lines(block: str) -> list[str]:
    return block.removesuffix("\n").split("\n")


def _split_record(fields: list[str]) -> str:
    return SPLIT + FIELD.join(fields).replace("\n", BREAK)


def _has_reserved(text: str) -> bool:
    return any(letter in text for letter in RESERVED)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(line: str) -> str:
    """Text of a bad row that can be written: bytes that do not decode as \\xff, no reserved letters."""
    shown = line[:SHOWN].encode(errors="surrogateescape").decode(errors="backslashreplace")
    return shown.translate(dict.fromkeys(map(ord, RESERVED), "\ufffd"))
