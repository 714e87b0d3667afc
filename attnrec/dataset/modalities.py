"""What describes an item beside its id, ready for a model: category codes, and vectors on one scale.

Row 0 is padding and has nothing. Texts become vectors, numbers vectors of width 1.
Shapes: N item rows, E pairs of item and category.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.features import Category, Features
from attnrec.dataset.text import TextEncoder, text_vectors

FEWEST_ITEMS = 2  # a category of one item says no more than the item's id
MOST_CATEGORIES = 5_000


@dataclass(frozen=True, eq=False)
class CategoryCodes:
    """Several categories per item.

    Attributes:
        rows, codes: the pairs, each (E,), each pair once, sorted by row.
        names: by code, the most frequent first; equally frequent ones by name.
        n_dropped: categories left out, of a single item or beyond the 5,000 most frequent.
    """

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    names: tuple[str, ...]
    n_dropped: int

    @property
    def width(self) -> int:
        """How many names there are."""
        return len(self.names)


@dataclass(frozen=True, eq=False)
class FixedVectors:
    """One vector per item, or none.

    Attributes:
        values: (N, width) float32, zeros where missing; root mean square length 1 over the items that have one.
        present: (N,) bool.
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]

    @property
    def width(self) -> int:
        """Of each vector."""
        return self.values.shape[1]


@dataclass(frozen=True, eq=False)
class Modalities:
    """Columns of items that a model reads beside their ids.

    Attributes:
        columns: name -> what it holds, in the order asked for.
        n_rows: N, padding included.
    """

    columns: dict[str, CategoryCodes | FixedVectors]
    n_rows: int

    def widths(self) -> dict[str, int]:
        """Name -> number of categories, or width of the vectors; what the parameters of a model depend on."""
        return {name: column.width for name, column in self.columns.items()}


def modalities(
    features: Features,
    columns: Sequence[str],
    *,
    text_encoder: TextEncoder = "tfidf",
    text_dim: int = 128,
    like: Features | None = None,
) -> Modalities:
    """Prepare `columns` of the items' features for a model.

    Args:
        features: of the catalogue.
        columns: names of categories, numbers, texts or vectors.
        text_encoder: see `text_vectors`.
        text_dim: width wanted of "tfidf".
        like: features of an earlier catalogue. Categories, means, scales and the words of texts are then its own, so
            that a model that was trained with them reads `features` in the same way.

    Raises:
        ValueError: for a column that does not exist, is empty, or is of another kind or width than in `like`.
    """
    if not columns:
        raise ValueError(f"modalities need at least one column of the items, got none; {_columns_of(features)}")
    learned = features if like is None else like
    kinds = {name: _checked_kind(name, features, learned) for name in columns}
    found: dict[str, CategoryCodes | FixedVectors] = {}
    for name, kind in kinds.items():
        if kind == "category":
            found[name] = _codes(name, features.categories[name], learned.categories[name])
        elif kind == "number":
            found[name] = _standardised(features.numbers[name], learned.numbers[name])
        elif kind == "vector":
            found[name] = _scaled(features.vectors[name], learned.vectors[name])
        else:
            corpus = None if like is None else like.texts[name].tolist()
            vectors = text_vectors(features.texts[name].tolist(), encoder=text_encoder, dim=text_dim, corpus=corpus)
            found[name] = FixedVectors(vectors, _has_vector(vectors))
    return Modalities(found, features.n_rows)


def _checked_kind(name: str, features: Features, learned: Features) -> str:
    kind, before = _kind(features, name), _kind(learned, name)
    if kind != before:
        raise ValueError(
            f"a modality must be what it was in the earlier catalogue, got {name!r} as {kind} after {before}; "
            "convert it"
        )
    filled = {
        "category": lambda: len(learned.categories[name][0]) > 0,
        "number": lambda: bool(np.isfinite(learned.numbers[name]).any()),
        "text": lambda: any(text.strip() for text in learned.texts[name]),
        "vector": lambda: bool(_has_vector(learned.vectors[name]).any()),
    }
    if not filled[kind]():
        raise ValueError(f"a modality needs a value for some item, got none at all in {name!r}; leave the column out")
    if kind == "vector":
        width, wanted = features.vectors[name].shape[1], learned.vectors[name].shape[1]
        if width not in (0, wanted):  # 0: none of these items has one
            raise ValueError(
                f"a modality must be as wide as in the earlier catalogue, {wanted}, got {width} in {name!r}; "
                "make it as it was made then"
            )
    return kind


def _kind(features: Features, name: str) -> str:
    kinds = {
        "category": features.categories,
        "number": features.numbers,
        "text": features.texts,
        "vector": features.vectors,
    }
    for kind, columns in kinds.items():
        if name in columns:
            return kind
    raise ValueError(f"a modality must be a column of the items, got {name!r}; {_columns_of(features)}")


def _columns_of(features: Features) -> str:
    names = sorted([*features.categories, *features.numbers, *features.texts, *features.vectors])
    return f"there are {', '.join(names)}" if names else "the items have no columns"


def _codes(name: str, values: Category, learned: Category) -> CategoryCodes:
    names, n_dropped = _shared_names(name, learned)
    places = {category: place for place, category in enumerate(names)}
    rows, codes, mine = values
    codes = np.array([places.get(category, -1) for category in mine], dtype=np.int64)[codes]
    pairs = np.unique(np.stack([rows, codes], axis=1)[codes >= 0], axis=0)
    return CategoryCodes(pairs[:, 0], pairs[:, 1], names, n_dropped)


def _shared_names(name: str, learned: Category) -> tuple[tuple[str, ...], int]:
    """Names that enough items have, the most frequent first, and how many others there are."""
    rows, codes, names = learned
    held = np.unique(np.stack([codes, rows]), axis=1)[0]  # an item may have a category twice
    counts = np.bincount(held, minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))
    kept = [names[code] for code in order if counts[code] >= FEWEST_ITEMS][:MOST_CATEGORIES]
    if not kept:
        raise ValueError(
            f"a category must be shared by at least {FEWEST_ITEMS} items to tell anything, got none such in {name!r}; "
            "leave the column out"
        )
    return tuple(kept), len(names) - len(kept)


def _standardised(numbers: NDArray[np.float32], learned: NDArray[np.float32]) -> FixedVectors:
    known = learned[np.isfinite(learned)].astype(np.float64)
    present = np.isfinite(numbers)
    values = np.where(present, (numbers - known.mean()) / (known.std() or 1.0), 0)
    return FixedVectors(values[:, None].astype(np.float32), present)


def _scaled(vectors: NDArray[np.float32], learned: NDArray[np.float32]) -> FixedVectors:
    known = learned[_has_vector(learned)].astype(np.float64)
    size = np.sqrt((known**2).sum(axis=1).mean())
    if vectors.shape[1] == 0:
        vectors = np.zeros((len(vectors), known.shape[1]), dtype=np.float32)
    present = _has_vector(vectors)
    return FixedVectors(np.where(present[:, None], vectors / size, 0).astype(np.float32), present)


def _has_vector(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
