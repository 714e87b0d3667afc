"""Columns of items or users as arrays by row number."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyarrow.types as pat
from numpy.typing import NDArray

from attnrec.dataset.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Features:
    """Columns aligned with a vocabulary; a row without a value has an empty one.

    Attributes:
        categories: several values per row: column -> (rows (n_values,), codes (n_values,), names).
        numbers: column -> (n_rows,) float32, NaN where missing.
        texts: column -> (n_rows,) object, "" where missing.
        vectors: column -> (n_rows, width) float32, zeros where missing.
    """

    categories: dict[str, tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]]
    numbers: dict[str, NDArray[np.float32]]
    texts: dict[str, NDArray[Any]]
    vectors: dict[str, NDArray[np.float32]]


def load_features(path: Path, vocabulary: Vocabulary) -> Features:
    """Read items.parquet or users.parquet by the rows of `vocabulary` (row 0 of items stays empty).

    Types come from the file: list of text is a category, number, text, list of float a vector.
    Ids that the vocabulary does not know are left out.
    """
    table = pq.read_table(path)
    rows = vocabulary.encode(table.column(0).to_pylist())
    known = rows >= vocabulary.first
    n_rows = len(vocabulary) + vocabulary.first
    features = Features(categories={}, numbers={}, texts={}, vectors={})
    for name in table.column_names[1:]:
        kind, values = table.schema.field(name).type, table.column(name).to_pandas()[known]
        if pat.is_list(kind) and pat.is_string(kind.value_type):
            features.categories[name] = _category(values, rows[known])
        elif pat.is_list(kind):
            features.vectors[name] = _vector(values, rows[known], n_rows)
        elif pat.is_string(kind) or pat.is_large_string(kind):
            texts = np.full(n_rows, "", dtype=object)
            texts[rows[known]] = values.fillna("")
            features.texts[name] = texts
        else:
            numbers = np.full(n_rows, np.nan, dtype=np.float32)
            numbers[rows[known]] = values.astype(np.float32)
            features.numbers[name] = numbers
    return features


def _category(
    values: pd.Series, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    exploded = pd.Series(values.to_numpy(), index=rows).explode().dropna()
    codes, names = pd.factorize(exploded, sort=True)
    return exploded.index.to_numpy(dtype=np.int64), codes.astype(np.int64), tuple(str(name) for name in names)


def _vector(values: pd.Series, rows: NDArray[np.int64], n_rows: int) -> NDArray[np.float32]:
    present = values.notna().to_numpy()
    width = len(values[present].iloc[0]) if present.any() else 0
    vectors = np.zeros((n_rows, width), dtype=np.float32)
    if width:
        vectors[rows[present]] = np.stack(values[present].to_list())
    return vectors
