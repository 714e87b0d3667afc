"""Item features prepared as model inputs: category codes and scaled vectors.

Texts become vectors, numbers become vectors of width 1. Row 0 is padding and has no values.
Shapes: N item rows, E pairs of item and category.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.features import Category, Features
from attnrec.dataset.text import TextEncoder, text_vectors

MIN_ITEMS_PER_CATEGORY = 2  # a category of one item carries no more information than the item's id
MAX_CATEGORIES = 5_000


@dataclass(frozen=True, eq=False)
class CategoryCodes:
    """A categorical column with any number of values per item.

    Attributes:
        rows, codes: distinct pairs of item row and category code, sorted by row, (E,) int64 each.
        names: category names by code, most frequent first, ties by name.
        n_dropped: number of categories that are dropped: those of a single item and those beyond the 5,000 most
            frequent.
    """

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    names: tuple[str, ...]
    n_dropped: int

    @property
    def width(self) -> int:
        """Number of categories."""
        return len(self.names)


@dataclass(frozen=True, eq=False)
class FixedVectors:
    """A column of vectors.

    Attributes:
        values: (N, width) float32, zeros if missing; the root mean square length over the present vectors is 1.
        present: True for items that have a value, (N,) bool.
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]

    @property
    def width(self) -> int:
        """Width of each vector."""
        return self.values.shape[1]


@dataclass(frozen=True, eq=False)
class Modalities:
    """Item columns that a model uses in addition to the item ids.

    Attributes:
        columns: column name -> values, in the requested order.
        n_rows: N, including padding.
    """

    columns: dict[str, CategoryCodes | FixedVectors]
    n_rows: int

    def widths(self) -> dict[str, int]:
        """Return the number of categories or the vector width by column name; it sets the parameter shapes."""
        return {name: column.width for name, column in self.columns.items()}


def modalities(
    features: Features,
    columns: Sequence[str],
    *,
    text_encoder: TextEncoder = "tfidf",
    text_dim: int = 128,
    fit_features: Features | None = None,
) -> Modalities:
    """Prepare columns of the item features as model inputs.

    Args:
        features: features of the catalogue.
        columns: names of category, number, text or vector columns.
        text_encoder: see `text_vectors`.
        text_dim: width of "tfidf" vectors, at most.
        fit_features: features on which categories, means, scales and the TF-IDF vocabulary are fitted; default:
            `features`. Pass the features of the training catalogue when a trained model is used with a later
            catalogue.

    Raises:
        ValueError: if a column does not exist or is empty, or its kind or width differs from `fit_features`.
    """
    if not columns:
        raise ValueError(f"modalities need at least one item column, got none; {_available_columns(features)}")
    fitted = features if fit_features is None else fit_features
    kinds = {name: _check_kind(name, features, fitted) for name in columns}
    prepared: dict[str, CategoryCodes | FixedVectors] = {}
    for name, kind in kinds.items():
        if kind == "category":
            prepared[name] = _encode_categories(name, features.categories[name], fitted.categories[name])
        elif kind == "number":
            prepared[name] = _standardise(features.numbers[name], fitted.numbers[name])
        elif kind == "vector":
            prepared[name] = _scale(features.vectors[name], fitted.vectors[name])
        else:
            corpus = None if fit_features is None else fit_features.texts[name].tolist()
            vectors = text_vectors(features.texts[name].tolist(), encoder=text_encoder, dim=text_dim, corpus=corpus)
            prepared[name] = FixedVectors(vectors, _is_present(vectors))
    return Modalities(prepared, features.n_rows)


def _check_kind(name: str, features: Features, fitted: Features) -> str:
    """Return the kind of a column; refuse an empty column and one that differs from the fitted features."""
    kind, fitted_kind = _kind(features, name), _kind(fitted, name)
    if kind != fitted_kind:
        raise ValueError(
            f"a modality must have the same kind as in the fitted features, got {kind} for {name!r} instead of "
            f"{fitted_kind}; convert the column"
        )
    has_values = {
        "category": lambda: len(fitted.categories[name][0]) > 0,
        "number": lambda: bool(np.isfinite(fitted.numbers[name]).any()),
        "text": lambda: any(text.strip() for text in fitted.texts[name]),
        "vector": lambda: bool(_is_present(fitted.vectors[name]).any()),
    }
    if not has_values[kind]():
        raise ValueError(f"a modality needs a value for at least one item, got none in {name!r}; drop the column")
    if kind == "vector":
        width, fitted_width = features.vectors[name].shape[1], fitted.vectors[name].shape[1]
        if width not in (0, fitted_width):  # 0: no item of `features` has a vector
            raise ValueError(
                f"a modality must have the same width as in the fitted features, {fitted_width}, got {width} in "
                f"{name!r}; compute the vectors with the same encoder"
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
    raise ValueError(f"a modality must be an item column, got {name!r}; {_available_columns(features)}")


def _available_columns(features: Features) -> str:
    names = sorted([*features.categories, *features.numbers, *features.texts, *features.vectors])
    return f"available columns: {', '.join(names)}" if names else "the items have no feature columns"


def _encode_categories(name: str, values: Category, fitted: Category) -> CategoryCodes:
    names, n_dropped = _select_categories(name, fitted)
    code_of = {category: code for code, category in enumerate(names)}
    rows, codes, categories = values
    codes = np.array([code_of.get(category, -1) for category in categories], dtype=np.int64)[codes]
    pairs = np.unique(np.stack([rows, codes], axis=1)[codes >= 0], axis=0)
    return CategoryCodes(pairs[:, 0], pairs[:, 1], names, n_dropped)


def _select_categories(name: str, fitted: Category) -> tuple[tuple[str, ...], int]:
    """Return the categories of enough items, most frequent first, and the number of categories that are dropped."""
    rows, codes, names = fitted
    distinct_codes = np.unique(np.stack([codes, rows]), axis=1)[0]  # an item may have a category twice
    counts = np.bincount(distinct_codes, minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))
    kept = [names[code] for code in order if counts[code] >= MIN_ITEMS_PER_CATEGORY][:MAX_CATEGORIES]
    if not kept:
        raise ValueError(
            f"a category column needs a category of at least {MIN_ITEMS_PER_CATEGORY} items, got none in {name!r}; "
            "drop the column"
        )
    return tuple(kept), len(names) - len(kept)


def _standardise(numbers: NDArray[np.float32], fitted: NDArray[np.float32]) -> FixedVectors:
    finite = fitted[np.isfinite(fitted)].astype(np.float64)
    present = np.isfinite(numbers)
    values = np.where(present, (numbers - finite.mean()) / (finite.std() or 1.0), 0)
    return FixedVectors(values[:, None].astype(np.float32), present)


def _scale(vectors: NDArray[np.float32], fitted: NDArray[np.float32]) -> FixedVectors:
    fitted_vectors = fitted[_is_present(fitted)].astype(np.float64)
    rms_length = np.sqrt((fitted_vectors**2).sum(axis=1).mean())
    if vectors.shape[1] == 0:
        vectors = np.zeros((len(vectors), fitted_vectors.shape[1]), dtype=np.float32)
    present = _is_present(vectors)
    return FixedVectors(np.where(present[:, None], vectors / rms_length, 0).astype(np.float32), present)


def _is_present(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
