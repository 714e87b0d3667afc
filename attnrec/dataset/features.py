"""Columns of items or users as arrays by row number."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pat
from numpy.typing import NDArray

from attnrec.dataset.vocabulary import Vocabulary
from attnrec.schema import ITEM, USER

Category = tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Features:
    """Columns aligned with a vocabulary; a row without a value has an empty one.

    Attributes:
        categories: several values per row: column -> (rows (n_values,), codes (n_values,), names).
        numbers: column -> (n_rows,) float32, NaN where missing.
        texts: column -> (n_rows,) object, "" where missing.
        vectors: column -> (n_rows, width) float32, zeros where missing.
        n_rows: rows of the vocabulary, padding included.
    """

    categories: dict[str, Category]
    numbers: dict[str, NDArray[np.float32]]
    texts: dict[str, NDArray[Any]]
    vectors: dict[str, NDArray[np.float32]]
    n_rows: int


def load_features(path: Path, vocabulary: Vocabulary) -> Features:
    """Read items.parquet or users.parquet by the rows of `vocabulary` (row 0 of items stays empty).

    Types come from the file: list of text is a category, number, text, list of float a vector.
    Ids that the vocabulary does not know are left out.
    """
    return _by_row(pq.read_table(path), vocabulary)


def features_from_frame(frame: pd.DataFrame, vocabulary: Vocabulary) -> Features:
    """Columns of a frame by the rows of `vocabulary`, as `load_features` has those of a file.

    Args:
        frame: item_id (for users: user_id) and one column per feature. pandas' category dtype and lists of text are
            categories, other text is text, numbers and truth values are numbers, lists of numbers are vectors.
        vocabulary: ids and their rows; ids that it does not know are left out.

    Raises:
        ValueError: for a frame without ids, with an id twice or none that is known, or a column of no such type.
    """
    name = ITEM if vocabulary.first else USER
    if name not in frame:
        raise ValueError(f"features need a column {name}, got {list(frame.columns)}; rename the one that has the ids")
    ids = frame[name]
    if ids.duplicated().any():
        raise ValueError(f"features need each {name} once, got {ids[ids.duplicated()].iloc[0]!r} twice; keep one row")
    try:
        table = pa.Table.from_pandas(frame[[name, *frame.columns.drop(name)]], preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a column of features must hold values of one type, got: {error.args[0]}") from None
    features = _by_row(table, vocabulary)
    if not (vocabulary.encode(ids) >= vocabulary.first).any():
        raise ValueError(f"features need rows of the log's own {name}s, got none of them (first: {ids.iloc[0]!r})")
    return features


def save_features(features: Features, vocabulary: Vocabulary, path: Path) -> None:
    """Write what `load_features` reads back, one row per id."""
    first, n_rows = vocabulary.first, len(vocabulary) + vocabulary.first
    columns: dict[str, pa.Array] = {ITEM if first else USER: pa.array(vocabulary.ids)}
    for name, (rows, codes, names) in features.categories.items():
        order = np.argsort(rows, kind="stable")
        values = pa.array(np.array(names, dtype=object)[codes[order]], pa.string())
        columns[name] = _lists(np.bincount(rows, minlength=n_rows)[first:], values)
    for name, numbers in features.numbers.items():
        columns[name] = pa.array(numbers[first:], from_pandas=True)
    for name, texts in features.texts.items():
        columns[name] = pa.array(texts[first:], pa.string())
    for name, vectors in features.vectors.items():
        widths = np.full(len(vocabulary), vectors.shape[1])
        columns[name] = _lists(widths, pa.array(vectors[first:].reshape(-1)))
    pq.write_table(pa.table(columns), path)


def _lists(counts: NDArray[np.integer[Any]], values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def _by_row(table: pa.Table, vocabulary: Vocabulary) -> Features:
    rows = vocabulary.encode(table.column(0).to_pylist())
    known = rows >= vocabulary.first
    n_rows = len(vocabulary) + vocabulary.first
    rows, table = rows[known], table.filter(pa.array(known))
    features = Features(categories={}, numbers={}, texts={}, vectors={}, n_rows=n_rows)
    for name in table.column_names[1:]:
        kind, values = _kind(name, table.schema.field(name).type), table.column(name)
        if kind == "category":
            features.categories[name] = _category(values.to_pandas(), rows)
        elif kind == "vector":
            features.vectors[name] = _vector(name, values.to_pandas(), rows, n_rows)
        elif kind == "text":
            texts = np.full(n_rows, "", dtype=object)
            texts[rows] = values.to_pandas().fillna("")
            features.texts[name] = texts
        else:
            numbers = np.full(n_rows, np.nan, dtype=np.float32)
            numbers[rows] = values.cast(pa.float64(), safe=False).to_pandas()
            features.numbers[name] = numbers
    return features


def _kind(name: str, kind: pa.DataType) -> str:
    if pat.is_dictionary(kind):
        return "category"
    if pat.is_list(kind) or pat.is_large_list(kind):
        return "category" if _is_text(kind.value_type) else "vector"
    if _is_text(kind):
        return "text"
    if pat.is_integer(kind) or pat.is_floating(kind) or pat.is_boolean(kind) or pat.is_decimal(kind):
        return "number"
    raise ValueError(
        f"a feature must be a number, a text, a category or a list, got {kind} in {name!r}; convert it or leave it out"
    )


def _is_text(kind: pa.DataType) -> bool:
    return pat.is_string(kind) or pat.is_large_string(kind)


def _category(values: pd.Series, rows: NDArray[np.int64]) -> Category:
    exploded = pd.Series(values.to_numpy(dtype=object), index=rows).explode().dropna()
    codes, names = pd.factorize(exploded, sort=True)
    return exploded.index.to_numpy(dtype=np.int64), codes.astype(np.int64), tuple(str(name) for name in names)


def _vector(name: str, values: pd.Series, rows: NDArray[np.int64], n_rows: int) -> NDArray[np.float32]:
    present = values.notna().to_numpy()
    widths = sorted({len(vector) for vector in values[present]})
    if len(widths) > 1:
        raise ValueError(f"all vectors of a column must have one width, got {widths[0]} and {widths[-1]} in {name!r}")
    vectors = np.zeros((n_rows, widths[0] if widths else 0), dtype=np.float32)
    if widths:
        vectors[rows[present]] = np.stack(values[present].to_list())
    return vectors
