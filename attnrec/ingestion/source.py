"""Settings of a log or table: its files, format and columns (`[interactions]`, `[items]`, `[users]`)."""

import codecs
import hashlib
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from attnrec.config import Config

Format = Literal["auto", "csv", "parquet", "jsonl", "ratings.dat"]
ColumnType = Literal["category", "number", "text", "vector"]

RATINGS_DAT = ("user_id", "item_id", "rating", "timestamp")
"""Columns of MovieLens' ratings.dat, a file without a header."""

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".dat": "ratings.dat",
}
MAX_FULL_HASH_BYTES = 64 * 2**20
HASH_BLOCK_BYTES = 2**20


class IngestionError(ValueError):
    """A log or table that cannot be ingested; the message names the problem and a fix."""


def _check_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"encoding must be a Python codec, got {name!r}; try utf-8, latin-1 or cp1252") from None
    return name


Encoding = Annotated[str, AfterValidator(_check_encoding)]
Delimiter = Annotated[str, Field(min_length=1, max_length=4)]


class InteractionSource(Config):
    """The `[interactions]` table: where the log is and how it is read. One row is one interaction.

    Attributes:
        path: a local file or glob, or a list of them, read in this order (files of a glob in alphabetical order).
            Required.
        format: "csv", "parquet", "jsonl" or "ratings.dat" (MovieLens-1M). Default "auto": by the file's suffix; a
            suffix ".gz" after it is decompressed.
        user_id: source column of the user ids. Default "user_id".
        item_id: source column of the item ids. Default "item_id".
        datetime: source column of the times, or "order" (the order of the rows is the time), or "none" (interactions
            have no order). Default "datetime".
        weight: source column of a non-negative weight, such as a rating or a quantity. Default: none.
        event: source column of the event type, such as "view" or "purchase". Default: none.
        row_number: source column with row numbers, which is ignored when rows are compared for duplicates. Default:
            none.
        column_names: column names of a file without a header. Default: the header; `RATINGS_DAT` for "ratings.dat".
        delimiter: field delimiter of text files. Default: a comma, a tab for ".tsv", "::" for "ratings.dat". With more
            than one character, quotes have no meaning.
        encoding: encoding of text files, a Python codec. Default "utf-8".
        datetime_format: strptime format of the times, also for numbers like 20200131. Default: ISO 8601 text (without
            time zone: UTC) or numbers since 1970.
        datetime_unit: "s", "ms", "us" or "ns", the unit of times that are numbers. Default "auto", by magnitude:
            < 1e11 s, < 1e14 ms, < 1e17 us, else ns.
        item_pattern: regular expression (RE2); rows whose item_id contains no match are rejected. Default: none.
    """

    path: str | tuple[str, ...]
    format: Format = "auto"
    user_id: str = "user_id"
    item_id: str = "item_id"
    datetime: str = "datetime"
    weight: str | None = None
    event: str | None = None
    row_number: str | None = None
    column_names: tuple[str, ...] | None = None
    delimiter: Delimiter | None = None
    encoding: Encoding = "utf-8"
    datetime_format: str | None = None
    datetime_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    item_pattern: str | None = None

    @property
    def time_kind(self) -> Literal["datetime", "order", "none"]:
        """Whether the log has times, only an order, or neither."""
        return self.datetime if self.datetime in ("order", "none") else "datetime"


class TableSource(Config):
    """The `[items]` or `[users]` table: one row per item or user.

    Attributes:
        path: as in `InteractionSource`. Required.
        format: as in `InteractionSource`.
        id: source column of the item or user ids. Required.
        columns: source column -> type, for the columns to read. Required. Types: "category" (one or several values),
            "number", "text", and "vector" (a list of numbers, or text such as "[0.1, 0.2]").
        separator: separator of several categories in one text. Default "|".
        delimiter: as in `InteractionSource`.
        encoding: as in `InteractionSource`.
        column_names: column names of a file without a header. Default: the header.
    """

    path: str | tuple[str, ...]
    format: Format = "auto"
    id: str
    columns: dict[str, ColumnType]
    separator: Annotated[str, Field(min_length=1)] = "|"
    delimiter: Delimiter | None = None
    encoding: Encoding = "utf-8"
    column_names: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check_id_column(self) -> "TableSource":
        if self.id in self.columns:
            raise ValueError(f"columns must not contain the id column, got {self.id!r}; remove it from columns")
        return self


Source = InteractionSource | TableSource


def find_files(source: Source) -> list[Path]:
    """Return the files of `source` in reading order, without duplicates.

    Raises:
        IngestionError: for a path or glob that matches no file, or an empty file.
    """
    files: dict[Path, None] = {}
    for pattern in [source.path] if isinstance(source.path, str) else source.path:
        names = sorted(glob(pattern, recursive=True)) if has_magic(pattern) else [pattern]  # noqa: PTH207
        matches = [path for path in map(Path, names) if path.is_file()]
        if not matches:
            raise IngestionError(f"path must match at least one file, got none for {pattern!r}; check the path")
        files |= dict.fromkeys(matches)
    for file in files:
        if file.stat().st_size == 0:
            raise IngestionError(f"a source file must not be empty, got 0 bytes in {file}; remove or replace the file")
    return list(files)


def format_of(source: Source, file: Path) -> Format:
    """Return the format of `file`: the setting `format`, or for "auto" by the file's suffix.

    Raises:
        IngestionError: for an unknown suffix.
    """
    if source.format != "auto":
        return source.format
    suffix = bare_suffix(file)
    if suffix not in SUFFIXES:
        raise IngestionError(
            f"format 'auto' needs one of the suffixes {', '.join(SUFFIXES)}, got {file.name}; set format"
        )
    return SUFFIXES[suffix]


def bare_suffix(file: Path) -> str:
    """Return the suffix in lower case, without a trailing .gz."""
    name = file.name.lower().removesuffix(".gz")
    return Path(name).suffix


def source_fingerprint(*sources: Source | None) -> str:
    """Return a hash of the files of `sources` that does not depend on their folder.

    Files below 64 MB are hashed completely; larger ones by size, modification time, and their first and last MB. The
    settings of a source are not hashed.

    Args:
        *sources: the sources; None for an optional source that is not used.

    Raises:
        IngestionError: as in `find_files`.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(b"source" if source else b"none")
        for file in find_files(source) if source else ():
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            for block in _hashed_content(file):
                digest.update(block)
    return digest.hexdigest()


def _hashed_content(file: Path) -> Iterator[bytes]:
    status = file.stat()
    with file.open("rb") as content:
        if status.st_size < MAX_FULL_HASH_BYTES:
            while block := content.read(HASH_BLOCK_BYTES):
                yield block
            return
        yield str(status.st_mtime_ns).encode()
        yield content.read(HASH_BLOCK_BYTES)
        content.seek(-HASH_BLOCK_BYTES, 2)
        yield content.read()
