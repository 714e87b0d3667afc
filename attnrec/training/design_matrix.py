"""The columns that the features of two catalogues share, as numbers to regress on.

1 for each category of an item (of the names that both have, the `MOST_CATEGORIES` that most known items have), numbers
less their mean over their standard deviation, vectors less their mean over their root mean square; what is missing is
the mean. Means are over the known items of the earlier catalogue. Texts are not used.
Shapes: N item rows, P columns, W columns of numbers and vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset import Features

MOST_CATEGORIES = 2_000
BLOCK = 4096  # rows that are made dense at a time: BLOCK x P x 8 bytes

Places = dict[tuple[str, str], int]
Scales = dict[str, tuple[NDArray[np.float64], float]]


@dataclass(frozen=True, eq=False)
class Design:
    """One catalogue's columns.

    Attributes:
        ones: (row, column) of each category's 1, (n, 2), sorted.
        n_categories: how many columns are categories; they come first.
        measures: numbers and vectors, (N, W) float32.
        has_value: whether an item has any value at all, (N,) bool.
    """

    ones: NDArray[np.int64]
    n_categories: int
    measures: NDArray[np.float32]
    has_value: NDArray[np.bool_]

    @property
    def width(self) -> int:
        """P."""
        return self.n_categories + self.measures.shape[1]

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], slice]]:
        """All rows, some at a time: (rows of this block, P), and which they are."""
        for first in range(0, len(self.measures), BLOCK):
            rows = slice(first, min(first + BLOCK, len(self.measures)))
            block = np.zeros((rows.stop - first, self.width))
            begin, end = np.searchsorted(self.ones[:, 0], [rows.start, rows.stop])
            at, column = self.ones[begin:end].T
            block[at - first, column] = 1
            block[:, self.n_categories :] = self.measures[rows]
            yield block, rows


def shared_designs(old: Features, new: Features, *, known: NDArray[np.bool_]) -> tuple[Design, Design]:
    """The shared columns of two catalogues, scaled by the `known` rows (N,) of the old one.

    Raises:
        ValueError: for a column that both have, but of another kind or width.
    """
    _check_kinds(old, new)
    places = _shared_names(old, new, known)
    scales = _shared_scales(old, new, known)
    return _design(old, places, scales), _design(new, places, scales)


def _check_kinds(old: Features, new: Features) -> None:
    before, after = _kinds(old), _kinds(new)
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            raise ValueError(
                f"a column of items must be what it was for init, got {name!r} as {after[name]} after {before[name]}; "
                "convert it, or give it another name"
            )


def _kinds(features: Features) -> dict[str, str]:
    widths = {name: values.shape[1] for name, values in features.vectors.items()}
    return (
        dict.fromkeys(features.categories, "a category")
        | dict.fromkeys(features.numbers, "a number")
        | {name: f"a vector of width {width}" for name, width in widths.items() if width}
    )


def _shared_names(old: Features, new: Features, known: NDArray[np.bool_]) -> Places:
    """(column, name) -> column of the design, the most frequent first; equally frequent ones by name."""
    counts: dict[tuple[str, str], int] = {}
    for column in old.categories.keys() & new.categories.keys():
        rows, codes, names = old.categories[column]
        held = np.unique(np.stack([codes, rows])[:, known[rows]], axis=1)[0]
        numbers, both = np.bincount(held, minlength=len(names)), set(new.categories[column][2])
        counts |= {(column, name): int(n) for name, n in zip(names, numbers, strict=True) if n and name in both}
    kept = sorted(counts, key=lambda place: (-counts[place], place))[:MOST_CATEGORIES]
    return {place: number for number, place in enumerate(kept)}


def _shared_scales(old: Features, new: Features, known: NDArray[np.bool_]) -> Scales:
    scales: Scales = {}
    for name in sorted({*old.numbers, *old.vectors} & {*new.numbers, *new.vectors}):
        values, present = _measure(old, name)
        learned = values[present & known].astype(np.float64)
        mean = learned.mean(0) if len(learned) else 0.0
        size = float(np.sqrt(np.mean((learned - mean) ** 2))) if learned.size else 0.0
        if size > 0:
            scales[name] = (np.asarray(mean), size)
    return scales


def _measure(features: Features, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A number (N, 1) or vector (N, width), and who has it (N,)."""
    if name in features.numbers:
        values = features.numbers[name][:, None]
        return values, np.isfinite(values[:, 0])
    values = features.vectors[name]
    return values, np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)


def _design(features: Features, places: Places, scales: Scales) -> Design:
    ones = _ones(features, places)
    has_value = np.zeros(features.n_rows, dtype=bool)
    has_value[ones[:, 0]] = True
    measures = [np.zeros((features.n_rows, 0), dtype=np.float32)]
    for name, (mean, size) in scales.items():
        values, present = _measure(features, name)
        has_value |= present
        measures.append(np.where(present[:, None], (values - mean) / size, 0).astype(np.float32))
    return Design(ones, len(places), np.concatenate(measures, axis=1), has_value)


def _ones(features: Features, places: Places) -> NDArray[np.int64]:
    found = [np.zeros((0, 2), dtype=np.int64)]
    for column, (rows, codes, names) in features.categories.items():
        at = np.array([places.get((column, name), -1) for name in names], dtype=np.int64)[codes]
        found.append(np.stack([rows, at], axis=1)[at >= 0])
    return np.unique(np.concatenate(found), axis=0)
