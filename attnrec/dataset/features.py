"""Features of items or users as arrays, aligned with the rows of a vocabulary."""

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
"""Item or user rows (n_values,), category codes (n_values,) and the category names by code."""


@dataclass(frozen=True, eq=False)
class Features:
    """Feature columns, one entry per row of a vocabulary.

    Attributes:
        categories: column name -> `Category`; a row may have any number of values.
        numbers: column name -> (n_rows,) float32, NaN if missing.
        texts: column name -> (n_rows,) object, "" if missing.
        vectors: column name -> (n_rows, width) float32, zeros if missing.
        n_rows: rows of the vocabulary, including padding.
    """

    categories: dict[str, Category]
    numbers: dict[str, NDArray[np.float32]]
    texts: dict[str, NDArray[Any]]
    vectors: dict[str, NDArray[np.float32]]
    n_rows: int


def load_features(path: Path, vocabulary: Vocabulary) -> Features:
    """Read items.parquet or users.parquet and align it with the rows of `vocabulary`; row 0 of items is padding.

    The Parquet type of a column sets the kind of feature: dictionary or list of strings: category; number or
    boolean: number; string: text; list of numbers: vector. Unknown ids are dropped.
    """
    return _align_rows(pq.read_table(path), vocabulary)


def features_from_frame(frame: pd.DataFrame, vocabulary: Vocabulary) -> Features:
    """Align the columns of a frame with the rows of `vocabulary`.

    Args:
        frame: item_id (for users: user_id) and one column per feature. Columns of pandas' category dtype or lists of
            strings are categories, other strings are texts, numbers and booleans are numbers, lists of numbers are
            vectors.
        vocabulary: item or user ids; unknown ids are dropped.

    Raises:
        ValueError: if the id column is missing, has duplicates or no known id, or a column has an unsupported type.
    """
    name = ITEM if vocabulary.first else USER
    if name not in frame:
        raise ValueError(f"features need a column {name}, got {list(frame.columns)}; rename the id column")
    ids = frame[name]
    if ids.duplicated().any():
        raise ValueError(
            f"{name} must be unique in features, got {ids[ids.duplicated()].iloc[0]!r} more than once; keep one row"
        )
    try:
        table = pa.Table.from_pandas(frame[[name, *frame.columns.drop(name)]], preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a feature column must have values of one type, got: {error.args[0]}") from None
    features = _align_rows(table, vocabulary)
    if not (vocabulary.encode(ids) >= vocabulary.first).any():
        raise ValueError(
            f"features must contain at least one {name} of the log, got none (first: {ids.iloc[0]!r}); "
            "check the type and spelling of the ids"
        )
    return features


def save_features(features: Features, vocabulary: Vocabulary, path: Path) -> None:
    """Write features to a Parquet file that `load_features` reads, one row per id."""
    first, n_rows = vocabulary.first, len(vocabulary) + vocabulary.first
    columns: dict[str, pa.Array] = {ITEM if first else USER: pa.array(vocabulary.ids)}
    for name, (rows, codes, names) in features.categories.items():
        order = np.argsort(rows, kind="stable")
        values = pa.array(np.array(names, dtype=object)[codes[order]], pa.string())
        columns[name] = _list_array(np.bincount(rows, minlength=n_rows)[first:], values)
    for name, numbers in features.numbers.items():
        columns[name] = pa.array(numbers[first:], from_pandas=True)
    for name, texts in features.texts.items():
        columns[name] = pa.array(texts[first:], pa.string())
    for name, vectors in features.vectors.items():
        widths = np.full(len(vocabulary), vectors.shape[1])
        columns[name] = _list_array(widths, pa.array(vectors[first:].reshape(-1)))
    pq.write_table(pa.table(columns), path)


def _list_array(counts: NDArray[np.integer[Any]], values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def _align_rows(table: pa.Table, vocabulary: Vocabulary) -> Features:
    rows = vocabulary.encode(table.column(0).to_pylist())
    in_vocabulary = rows >= vocabulary.first
    n_rows = len(vocabulary) + vocabulary.first
    rows, table = rows[in_vocabulary], table.filter(pa.array(in_vocabulary))
    features = Features(categories={}, numbers={}, texts={}, vectors={}, n_rows=n_rows)
    for name in table.column_names[1:]:
        kind, values = _feature_kind(name, table.schema.field(name).type), table.column(name)
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


def _feature_kind(name: str, dtype: pa.DataType) -> str:
    if pat.is_dictionary(dtype):
        return "category"
    if pat.is_list(dtype) or pat.is_large_list(dtype):
        return "category" if _is_string(dtype.value_type) else "vector"
    if _is_string(dtype):
        return "text"
    if pat.is_integer(dtype) or pat.is_floating(dtype) or pat.is_boolean(dtype) or pat.is_decimal(dtype):
        return "number"
    raise ValueError(
        f"a feature must be a number, string, category or list, got type {dtype} in column {name!r}; "
        "convert or drop the column"
    )


def _is_string(dtype: pa.DataType) -> bool:
    return pat.is_string(dtype) or pat.is_large_string(dtype)


def _category(values: pd.Series, rows: NDArray[np.int64]) -> Category:
    exploded = pd.Series(values.to_numpy(dtype=object), index=rows).explode().dropna()
    codes, names = pd.factorize(exploded, sort=True)
    return exploded.index.to_numpy(dtype=np.int64), codes.astype(np.int64), tuple(str(name) for name in names)


def _vector(name: str, values: pd.Series, rows: NDArray[np.int64], n_rows: int) -> NDArray[np.float32]:
    present = values.notna().to_numpy()
    widths = sorted({len(vector) for vector in values[present]})
    if len(widths) > 1:
        raise ValueError(
            f"all vectors of a column must have the same width, got {widths[0]} and {widths[-1]} in {name!r}; "
            "make them equally long"
        )
    vectors = np.zeros((n_rows, widths[0] if widths else 0), dtype=np.float32)
    if widths:
        vectors[rows[present]] = np.stack(values[present].to_list())
    return vectors
