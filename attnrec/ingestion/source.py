"""Where a log or table lies and how it is written: [interactions], [items] and [users] of an experiment."""

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
"""Columns of MovieLens' ratings.dat, which has no header."""

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".dat": "ratings.dat",
}
HASHED_WHOLE = 64 * 2**20
HEAD_AND_TAIL = 2**20


class IngestionError(ValueError):
    """A log or table that cannot be ingested; the message says what was found and what to do."""


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"encoding must be one Python knows, got {name!r}; try utf-8, latin-1 or cp1252") from None
    return name


Encoding = Annotated[str, AfterValidator(_known_encoding)]
Delimiter = Annotated[str, Field(min_length=1, max_length=4)]


class InteractionSource(Config):
    """The [interactions] table: one row per interaction.

    Attributes:
        path: local files and globs, read in the order given (a glob in alphabetical order).
        format: "auto" goes by the file's suffix; ".gz" after it is unpacked.
        user_id: source column; so are item_id, datetime, weight and event.
        datetime: a source column, "order" (the order of arrival is the time) or "none" (an unordered set).
        row_number: the source's own row numbers, left out when duplicates are looked for.
        columns: names for a file without header; "ratings.dat" has MovieLens' own (`RATINGS_DAT`).
        delimiter: default a comma, a tab for ".tsv", "::" for ".dat". Longer than one letter: no quoting.
        datetime_format: strptime format, for numbers like 20200131 too. Default: ISO text (without zone: UTC)
            or numbers since 1970.
        datetime_unit: of numbers; "auto" goes by magnitude: < 1e11 s, < 1e14 ms, < 1e17 us, else ns.
        item_pattern: regular expression (RE2) that an item_id must contain a match of.
    """

    path: str | tuple[str, ...]
    format: Format = "auto"
    user_id: str = "user_id"
    item_id: str = "item_id"
    datetime: str = "datetime"
    weight: str | None = None
    event: str | None = None
    row_number: str | None = None
    columns: tuple[str, ...] | None = None
    delimiter: Delimiter | None = None
    encoding: Encoding = "utf-8"
    datetime_format: str | None = None
    datetime_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    item_pattern: str | None = None

    @property
    def time_kind(self) -> Literal["datetime", "order", "none"]:
        """Whether the log has a clock, only an order, or neither."""
        return self.datetime if self.datetime in ("order", "none") else "datetime"

    @property
    def names(self) -> tuple[str, ...] | None:
        """Column names of a file without header, None where the file names them."""
        return self.columns


class TableSource(Config):
    """The [items] or [users] table: one row per item or user.

    Attributes:
        path, format, delimiter, encoding: as in `InteractionSource`.
        header: column names for a file without header.
        id: source column that holds the item_id or user_id.
        columns: source column -> type. "category" may hold several values, "vector" a list of numbers or a
            text like "[0.1, 0.2]".
        separator: between the values of a category.
    """

    path: str | tuple[str, ...]
    format: Format = "auto"
    id: str
    columns: dict[str, ColumnType]
    separator: Annotated[str, Field(min_length=1)] = "|"
    delimiter: Delimiter | None = None
    encoding: Encoding = "utf-8"
    header: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _id_is_no_feature(self) -> "TableSource":
        if self.id in self.columns:
            raise ValueError(f"columns must not hold the id, got {self.id!r} in both; leave it out of columns")
        return self

    @property
    def names(self) -> tuple[str, ...] | None:
        """Column names of a file without header, None where the file names them."""
        return self.header


Source = InteractionSource | TableSource


def find_files(source: Source) -> list[Path]:
    """List the files of `source`, each once, in the order they are read.

    Raises:
        IngestionError: where a path or glob matches no file, or a file has 0 bytes.
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
            raise IngestionError(f"a file must hold data, got 0 bytes in {file}; remove it or deliver it again")
    return list(files)


def format_of(source: Source, file: Path) -> Format:
    """Say how `file` is written: the source's own word, else by suffix.

    Raises:
        IngestionError: for a suffix that says nothing.
    """
    if source.format != "auto":
        return source.format
    suffix = bare_suffix(file)
    if suffix not in SUFFIXES:
        raise IngestionError(
            f"format 'auto' knows the suffixes {', '.join(SUFFIXES)} (and .gz after them), got {file.name}; set format"
        )
    return SUFFIXES[suffix]


def bare_suffix(file: Path) -> str:
    """The suffix in lower case, of what is inside when it ends in .gz."""
    name = file.name.lower().removesuffix(".gz")
    return Path(name).suffix


def source_fingerprint(*sources: Source | None) -> str:
    """Hash the files of `sources`, so that unchanged files give the same key wherever they lie.

    Files under 64 MB are hashed whole, larger ones by size, time of change, first and last MB. The settings
    of a source are not part of it. None stands for a source that is not used.

    Raises:
        IngestionError: as `find_files`.
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
        if status.st_size < HASHED_WHOLE:
            while block := content.read(HEAD_AND_TAIL):
                yield block
            return
        yield str(status.st_mtime_ns).encode()
        yield content.read(HEAD_AND_TAIL)
        content.seek(-HEAD_AND_TAIL, 2)
        yield content.read()
