"""Calibration and diversity of recommended lists.

Shapes: U users, k ranks, N item rows, G categories. Lists are item rows (U, k), 0 = empty rank. A user without a value
has NaN: compute means and intervals over the other users, and paired tests over the users with a value in both lists.
"""

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.features import Category
from attnrec.evaluation.popularity_bias import Profiles, Rows, Values, check_profiles, without_empty_ranks

ALPHA = 0.01  # Steck 2018


def calibration(lists: Rows, profiles: Profiles, categories: Category, *, alpha: float = ALPHA) -> Values:
    """Compute the miscalibration KL(p || (1 - alpha) q + alpha p) in nats (Steck 2018, doi:10.1145/3240323.3240372).

    p is the category distribution of the history and q that of the list. Every item has the same weight, divided
    equally among its categories. Range [0, log(1 / alpha)]; lower is better: 0 is a calibrated list, the maximum is a
    list without any category of the history.

    Args:
        lists: recommended items, (U, k).
        profiles: profiles of the same users.
        categories: an item column (rows, codes, names). Items without a category are ignored.
        alpha: weight of p in the smoothed list distribution; keeps the divergence finite.

    Returns:
        (U,); NaN for users whose history or list has no item with a category.
    """
    check_profiles(lists, profiles)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}; use the default {ALPHA}")
    recommended, n_names = without_empty_ranks(lists), max(1, len(categories[2]))
    divergences = np.full(len(lists), np.nan)
    by_item = _codes_by_item(categories, 1 + max(lists.max(initial=0), profiles.items.max(initial=0)))
    for users in _chunks(len(lists), max(n_names, 200)):  # leaves room for a few hundred events per user
        p, q = (_category_shares(each, users, by_item, n_names) for each in (profiles, recommended))
        ratios = np.divide(p, (1 - alpha) * q + alpha * p, out=np.ones_like(p), where=p > 0)
        divergences[users] = np.maximum((p * np.log(ratios)).sum(axis=1), 0)  # NaN if p or q is NaN
    return divergences


def intra_list_diversity(lists: Rows, vectors: NDArray[np.floating]) -> Values:
    """Compute the intra-list diversity, (U,): 1 - mean cosine similarity over the pairs of items of a list.

    Mean pairwise dissimilarity of Smyth & McClave 2001 (doi:10.1007/3-540-44593-5_25). Range [0, 2]; higher is more
    diverse: 0 for equal directions, 1 for orthogonal vectors. Items with a zero vector are ignored; NaN for lists with
    fewer than two other items.

    Args:
        lists: recommended items, (U, k).
        vectors: item vectors, (N, width); only the rows of recommended items are read.
    """
    rows, inverse = np.unique(lists, return_inverse=True)
    selected = vectors[rows].astype(np.float64)
    norms = np.linalg.norm(selected, axis=1)
    present = (norms > 0) & (rows > 0)
    unit = np.divide(selected, norms[:, None], out=np.zeros(selected.shape), where=present[:, None])
    similarity = np.full(len(lists), np.nan)
    for users in _chunks(len(lists), lists.shape[1] * vectors.shape[1]):
        n = present[inverse[users]].sum(axis=1)
        # the squared norm of the sum of n unit vectors is n plus the cosines of all ordered pairs
        cosines = (unit[inverse[users]].sum(axis=1) ** 2).sum(axis=1) - n
        np.divide(cosines, n * (n - 1), out=similarity[users], where=n > 1)
    return np.maximum(1 - similarity, 0)


def category_diversity(lists: Rows, categories: Category) -> Values:
    """Compute the category diversity, (U,): 1 - mean Jaccard index over the pairs of items of a list.

    Range [0, 1]; higher is more diverse: 0 for equal sets of categories, 1 for disjoint sets (Smyth & McClave 2001, as
    `intra_list_diversity`). Items without a category are ignored; NaN for lists with fewer than two other items.

    Args:
        lists: recommended items, (U, k).
        categories: an item column (rows, codes, names).
    """
    rows, codes, names = categories
    n_rows, n_words = 1 + max(lists.max(initial=0), rows.max(initial=0)), len(names) // 64 + 1
    sets = np.zeros((n_rows, n_words), dtype=np.uint64)  # one bit per category
    np.bitwise_or.at(sets, (rows, codes // 64), np.uint64(1) << (codes % 64).astype(np.uint64))
    left, right = np.triu_indices(lists.shape[1], 1)
    diversity = np.full(len(lists), np.nan)
    for users in _chunks(len(lists), len(left) * n_words):
        left_sets, right_sets = sets[lists[users][:, left]], sets[lists[users][:, right]]
        is_pair = left_sets.any(axis=2) & right_sets.any(axis=2)
        intersection = np.bitwise_count(left_sets & right_sets).sum(axis=2)
        union = np.bitwise_count(left_sets | right_sets).sum(axis=2)
        distances = np.where(is_pair, 1 - intersection / np.maximum(union, 1), 0).sum(axis=1)
        np.divide(distances, is_pair.sum(axis=1), out=diversity[users], where=is_pair.sum(axis=1) > 0)
    return diversity


def _codes_by_item(categories: Category, n_rows: int) -> tuple[Rows, Rows, Rows]:
    """Return the distinct codes of all items, ordered by item, and each item's start and number of codes, (N,) each."""
    rows, codes = np.unique(np.stack(categories[:2]), axis=1)
    n_codes = np.bincount(rows, minlength=n_rows)
    return codes, np.cumsum(n_codes) - n_codes, n_codes


def _category_shares(profiles: Profiles, users: slice, by_item: tuple[Rows, Rows, Rows], n_names: int) -> Values:
    """Return the category distribution of the profiles of `users`, (U, G), rows sum to 1; NaN without a category."""
    offsets, (codes, starts, n_codes) = profiles.offsets[users.start : users.stop + 1], by_item
    items, n_users = profiles.items[offsets[0] : offsets[-1]], len(offsets) - 1
    n = n_codes[items]
    index = np.arange(n.sum()) + np.repeat(starts[items] - (np.cumsum(n) - n), n)
    owners = np.repeat(np.repeat(np.arange(n_users), np.diff(offsets)), n)
    sums = np.bincount(owners * n_names + codes[index], 1 / np.repeat(n, n), minlength=n_users * n_names)
    shares, total = sums.reshape(n_users, n_names), sums.reshape(n_users, n_names).sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=np.full(shares.shape, np.nan), where=total > 0)


def _chunks(n_users: int, width: int) -> list[slice]:
    """Split the users into chunks of about 2 million numbers, at `width` numbers per user."""
    size = max(1, 2_000_000 // max(width, 1))
    return [slice(start, start + size) for start in range(0, n_users, size)]
