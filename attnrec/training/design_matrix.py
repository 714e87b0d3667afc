"""Design matrices of two catalogues over the feature columns that both have, for `FeatureRegression`.

A category column is one-hot encoded: one matrix column per name that both catalogues have, at most `MAX_CATEGORIES`,
the most frequent ones. Numbers are standardised. Vectors are centred and divided by their root mean square. Missing
values become the mean. All statistics come from the training rows of the old catalogue. Texts are not used.
Shapes: N item rows, P columns of the matrix, W columns of numbers and vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset import Features

MAX_CATEGORIES = 2_000
BLOCK = 4096  # rows per dense block, which takes BLOCK x P x 8 bytes

OneHotColumns = dict[tuple[str, str], int]
"""(feature column, category name) -> column of the design matrix."""

Scales = dict[str, tuple[NDArray[np.float64], float]]
"""Feature column -> mean and scale."""


@dataclass(frozen=True, eq=False)
class DesignMatrix:
    """Design matrix of one catalogue; the one-hot part is sparse.

    Attributes:
        ones: (row, column) of every 1 of the one-hot columns, (n, 2), sorted.
        n_categories: number of one-hot columns; they come first.
        numeric: scaled numbers and vectors, (N, W) float32.
        has_value: whether an item has any feature value, (N,) bool.
    """

    ones: NDArray[np.int64]
    n_categories: int
    numeric: NDArray[np.float32]
    has_value: NDArray[np.bool_]

    @property
    def width(self) -> int:
        """Number of columns, P."""
        return self.n_categories + self.numeric.shape[1]

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], slice]]:
        """Iterate over dense blocks of the matrix: the block (rows of the block, P) and its rows."""
        for first in range(0, len(self.numeric), BLOCK):
            rows = slice(first, min(first + BLOCK, len(self.numeric)))
            block = np.zeros((rows.stop - first, self.width))
            begin, end = np.searchsorted(self.ones[:, 0], [rows.start, rows.stop])
            row, column = self.ones[begin:end].T
            block[row - first, column] = 1
            block[:, self.n_categories :] = self.numeric[rows]
            yield block, rows


def shared_design_matrices(
    old: Features, new: Features, *, train_rows: NDArray[np.bool_]
) -> tuple[DesignMatrix, DesignMatrix]:
    """Return the design matrices of two catalogues over their shared columns.

    Args:
        old, new: features of the two catalogues.
        train_rows: rows of the old catalogue that means, scales and frequencies are computed on, (N,) bool.

    Raises:
        ValueError: for a column that has another type or width in the new catalogue.
    """
    _check_types(old, new)
    one_hot = _shared_categories(old, new, train_rows)
    scales = _shared_scales(old, new, train_rows)
    return _design_matrix(old, one_hot, scales), _design_matrix(new, one_hot, scales)


def _check_types(old: Features, new: Features) -> None:
    old_types, new_types = _column_types(old), _column_types(new)
    for name in sorted(old_types.keys() & new_types.keys()):
        if old_types[name] != new_types[name]:
            raise ValueError(
                f"an item column must have the same type as in init, got {name!r} as {new_types[name]}, in init as "
                f"{old_types[name]}; convert or rename the column"
            )


def _column_types(features: Features) -> dict[str, str]:
    widths = {name: values.shape[1] for name, values in features.vectors.items()}
    return (
        dict.fromkeys(features.categories, "a category")
        | dict.fromkeys(features.numbers, "a number")
        | {name: f"a vector of width {width}" for name, width in widths.items() if width}
    )


def _shared_categories(old: Features, new: Features, train_rows: NDArray[np.bool_]) -> OneHotColumns:
    """Assign one-hot columns to the shared categories, by descending frequency, then by name."""
    counts: dict[tuple[str, str], int] = {}
    for column in old.categories.keys() & new.categories.keys():
        rows, codes, names = old.categories[column]
        train_codes = np.unique(np.stack([codes, rows])[:, train_rows[rows]], axis=1)[0]
        n_items, new_names = np.bincount(train_codes, minlength=len(names)), set(new.categories[column][2])
        counts |= {(column, name): int(n) for name, n in zip(names, n_items, strict=True) if n and name in new_names}
    kept = sorted(counts, key=lambda category: (-counts[category], category))[:MAX_CATEGORIES]
    return {category: number for number, category in enumerate(kept)}


def _shared_scales(old: Features, new: Features, train_rows: NDArray[np.bool_]) -> Scales:
    scales: Scales = {}
    for name in sorted({*old.numbers, *old.vectors} & {*new.numbers, *new.vectors}):
        values, present = _numeric_column(old, name)
        train_values = values[present & train_rows].astype(np.float64)
        mean = train_values.mean(0) if len(train_values) else 0.0
        scale = float(np.sqrt(np.mean((train_values - mean) ** 2))) if train_values.size else 0.0
        if scale > 0:
            scales[name] = (np.asarray(mean), scale)
    return scales


def _numeric_column(features: Features, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a number column (N, 1) or vector column (N, width), and the rows that have a value (N,)."""
    if name in features.numbers:
        values = features.numbers[name][:, None]
        return values, np.isfinite(values[:, 0])
    values = features.vectors[name]
    return values, np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)


def _design_matrix(features: Features, one_hot: OneHotColumns, scales: Scales) -> DesignMatrix:
    ones = _ones(features, one_hot)
    has_value = np.zeros(features.n_rows, dtype=bool)
    has_value[ones[:, 0]] = True
    numeric = [np.zeros((features.n_rows, 0), dtype=np.float32)]
    for name, (mean, scale) in scales.items():
        values, present = _numeric_column(features, name)
        has_value |= present
        numeric.append(np.where(present[:, None], (values - mean) / scale, 0).astype(np.float32))
    return DesignMatrix(ones, len(one_hot), np.concatenate(numeric, axis=1), has_value)


def _ones(features: Features, one_hot: OneHotColumns) -> NDArray[np.int64]:
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for column, (rows, codes, names) in features.categories.items():
        columns = np.array([one_hot.get((column, name), -1) for name in names], dtype=np.int64)[codes]
        pairs.append(np.stack([rows, columns], axis=1)[columns >= 0])
    return np.unique(np.concatenate(pairs), axis=0)
