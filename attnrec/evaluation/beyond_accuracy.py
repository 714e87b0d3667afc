"""What accuracy says nothing of: popularity, calibration, novelty and diversity of lists, never of a model.

Shapes: U users, k places, E events, N item rows, G categories. Lists are item rows (U, k), 0 = empty place; counts
(N,) are training events by item row, row 0 is padding. Values of users are NaN where a user has none: means and
intervals are over the others, and paired tests want those users who have one in both lists.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Histories
from attnrec.dataset.features import Category

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

GROUPS = ("niche", "mixed", "blockbuster")
NO_HISTORY = "no history"
FIFTH = 0.2  # of items in the head, of users in the outer groups (Abdollahpouri et al. 2019)
ALPHA = 0.01  # Steck 2018
N_RESAMPLES = 1000


class Profiles(NamedTuple):
    """What users did before: items (E,), as often as they were used, of user u from offsets[u] to offsets[u + 1]."""

    items: Rows
    offsets: Rows

    def means(self, values: NDArray[Any]) -> Values:
        """Mean of the items' `values` (N,) for each user, (U,); NaN for those without an item."""
        lengths = np.diff(self.offsets)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        sums = np.bincount(owners, values[self.items], minlength=len(lengths))
        return np.divide(sums, lengths, out=np.full(len(lengths), np.nan), where=lengths > 0)


def profiles_of(histories: Histories, users: Rows) -> Profiles:
    """What `histories` shows of `users`, rows of it, (U,)."""
    items = histories.items[histories.positions(users)].astype(np.int64)
    return Profiles(items, np.concatenate([[0], np.cumsum(histories.lengths[users])]).astype(np.int64))


def exposure_by_decile(lists: Rows, counts: Rows) -> Values:
    """Share of each user's places in every decile of item popularity, the least popular items first.

    A decile holds a tenth of all training events (not of items), as the item groups of Abdollahpouri et al. 2021
    (arXiv:2103.06364) are made: 0.1 everywhere is exposure as people's own use has it. An item on an edge, and
    equally popular ones together, belong to both sides in parts; items without an event to the first decile.

    Returns:
        (U, 10), rows sum to 1.
    """
    shown = _filled(lists)
    return np.stack([shown.means(decile) for decile in _deciles(counts).T], axis=1)


def items_by_decile(counts: Rows) -> Values:
    """How many items make up each decile of `exposure_by_decile`, (10,); one on an edge counts in parts."""
    return _deciles(counts).sum(axis=0)


def head_share(profiles: Profiles, counts: Rows) -> Values:
    """Share of head items in each profile, (U,): of the most popular 20 % of the items that were used."""
    levels, level_of, sizes = np.unique(_used(counts)[1:], return_inverse=True, return_counts=True)
    n_before = sizes.sum() - np.cumsum(sizes)
    # equally popular items on the edge of the head are in it to equal parts
    in_head = np.clip((FIFTH * sizes[levels > 0].sum() - n_before) / sizes, 0, 1)
    return profiles.means(np.concatenate([[0], in_head[level_of]]))


def user_groups(profiles: Profiles, counts: Rows) -> NDArray[np.object_]:
    """Niche, mixed or blockbuster users by `head_share`: lowest fifth, middle, highest fifth, (U,) names.

    After Abdollahpouri et al. 2019 (arXiv:1907.13286), where an item counts once per profile, here as often as it
    was used. Users with equal shares are in one group, so that a group may be larger than a fifth, or empty:
    all are mixed when all are equal. Who has no history is in the group "no history".
    """
    shares = head_share(profiles, counts)
    groups = np.full(len(shares), NO_HISTORY, dtype=object)
    known = np.isfinite(shares)
    if known.any():
        low, high = np.quantile(shares[known], [FIFTH, 1 - FIFTH])
        groups[known] = "mixed"
        groups[(shares < low) | ((shares == low) & (low < high))] = "niche"
        groups[(shares > high) | ((shares == high) & (low < high))] = "blockbuster"
    return groups


def popularity_lift(
    lists: Rows, profiles: Profiles, counts: Rows, groups: NDArray[np.object_], *, seed: int = 0
) -> pd.DataFrame:
    """How much more popular the items shown to a group are than those its users chose.

    Delta GAP of Abdollahpouri et al. 2019 (arXiv:1907.13286), with events in place of raters; a group's popularity
    is the mean over its users of the mean over their items.

    Args:
        lists, profiles, counts: lists and profiles of the same users.
        groups: name of each user's group, (U,), as from `user_groups`.
        seed: of the resamples.

    Returns:
        One row per group: group, n_users (with a list and a history of counted items), in_profiles and in_lists
        (events per item), lift (their ratio - 1), low and high (95 % bootstrap over users).
    """
    _check_users(lists, profiles)
    both = np.stack([profiles.means(counts), _filled(lists).means(counts)], axis=1)
    usable = (both[:, 0] > 0) & np.isfinite(both[:, 1])
    rows = []
    for name in [*GROUPS, *sorted(set(groups) - set(GROUPS))]:
        pairs = both[usable & (groups == name)]
        if len(pairs):
            before, shown = pairs.mean(axis=0)
            rows.append((name, len(pairs), before, shown, shown / before - 1, *_lift_interval(pairs, seed)))
    return pd.DataFrame(rows, columns=["group", "n_users", "in_profiles", "in_lists", "lift", "low", "high"])


def user_popularity_lift(lists: Rows, profiles: Profiles, counts: Rows) -> Values:
    """How much more popular the items shown to each user are than those they chose, (U,).

    `popularity_lift` of a group of one; NaN without a list, or a history of counted items.
    """
    _check_users(lists, profiles)
    before, shown = profiles.means(counts), _filled(lists).means(counts)
    return np.divide(shown, before, out=np.full(len(lists), np.nan), where=before > 0) - 1


def calibration(lists: Rows, profiles: Profiles, categories: Category, *, alpha: float = ALPHA) -> Values:
    """How far a list's categories are from those of the history: KL(p || (1 - alpha) q + alpha p), nats.

    Steck 2018 (doi:10.1145/3240323.3240372), all items weighing the same: an item shares its 1 among its
    categories, p is the mean over the history and q over the list. 0 is calibrated, and log(1 / alpha) a list with
    none of the history's categories.

    Args:
        lists, profiles: of the same users.
        categories: a column of the items: (rows, codes, names). Items without any are left out.
        alpha: keeps the value finite where the list lacks a category.

    Returns:
        (U,); NaN for users whose history, or list, has no item with a category.
    """
    _check_users(lists, profiles)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}; {ALPHA} is usual")
    shown, found, n_names = _filled(lists), np.full(len(lists), np.nan), max(1, len(categories[2]))
    by_item = _codes_by_item(categories, 1 + max(lists.max(initial=0), profiles.items.max(initial=0)))
    for users in _parts(len(lists), max(n_names, 200)):  # a few hundred events each fit too
        p, q = (_category_shares(of, users, by_item, n_names) for of in (profiles, shown))
        ratios = np.divide(p, (1 - alpha) * q + alpha * p, out=np.ones_like(p), where=p > 0)
        found[users] = np.maximum((p * np.log(ratios)).sum(axis=1), 0)  # NaN where p or q is
    return found


def novelty(lists: Rows, counts: Rows) -> Values:
    """Mean self-information of the items shown, bits, (U,): -log2 of an item's share of the training events.

    After Zhou et al. 2010 (doi:10.1073/pnas.1000488107), with events in place of users. An item without an event
    counts as one with a single event.
    """
    return _filled(lists).means(-np.log2(np.maximum(counts, 1) / _used(counts).sum()))


def intra_list_diversity(lists: Rows, vectors: NDArray[np.floating]) -> Values:
    """1 - mean cosine over the pairs of a list, (U,): 0 when all are alike, 1 when all are unrelated.

    Mean dissimilarity of pairs after Smyth & McClave 2001 (doi:10.1007/3-540-44593-5_25). Items whose vector
    (N, width) is zero are left out; NaN for lists with fewer than two others. Vectors of items that are in no list
    are not read.
    """
    rows, places = np.unique(lists, return_inverse=True)
    shown = vectors[rows].astype(np.float64)
    lengths = np.linalg.norm(shown, axis=1)
    present = (lengths > 0) & (rows > 0)
    unit = np.divide(shown, lengths[:, None], out=np.zeros(shown.shape), where=present[:, None])
    found = np.full(len(lists), np.nan)
    for users in _parts(len(lists), lists.shape[1] * vectors.shape[1]):
        n = present[places[users]].sum(axis=1)
        # the squared length of a sum of n unit vectors is n and twice the cosine of every pair
        cosines = (unit[places[users]].sum(axis=1) ** 2).sum(axis=1) - n
        np.divide(cosines, n * (n - 1), out=found[users], where=n > 1)
    return np.maximum(1 - found, 0)


def category_diversity(lists: Rows, categories: Category) -> Values:
    """1 - mean Jaccard index over the pairs of a list, (U,): 0 for equal sets of categories, 1 for disjoint ones.

    As `intra_list_diversity`; items without any of the `categories` (rows, codes, names) are left out.
    """
    rows, codes, names = categories
    n_rows, n_words = 1 + max(lists.max(initial=0), rows.max(initial=0)), len(names) // 64 + 1
    sets = np.zeros((n_rows, n_words), dtype=np.uint64)  # a bit per category
    np.bitwise_or.at(sets, (rows, codes // 64), np.uint64(1) << (codes % 64).astype(np.uint64))
    one, other = np.triu_indices(lists.shape[1], 1)
    found = np.full(len(lists), np.nan)
    for users in _parts(len(lists), len(one) * n_words):
        ones, others = sets[lists[users][:, one]], sets[lists[users][:, other]]
        pair = ones.any(axis=2) & others.any(axis=2)
        common, either = (np.bitwise_count(both).sum(axis=2) for both in (ones & others, ones | others))
        distances = np.where(pair, 1 - common / np.maximum(either, 1), 0).sum(axis=1)
        np.divide(distances, pair.sum(axis=1), out=found[users], where=pair.sum(axis=1) > 0)
    return found


def _filled(lists: Rows) -> Profiles:
    """Lists without their empty places."""
    full = lists > 0
    return Profiles(lists[full], np.concatenate([[0], np.cumsum(full.sum(axis=1))]).astype(np.int64))


def _used(counts: Rows) -> Rows:
    if not counts[1:].any():
        raise ValueError("popularity needs a training event, got none; pass item_counts() of the training histories")
    return counts


def _deciles(counts: Rows) -> Values:
    """How much of each item belongs to each tenth of the events, (N, 10)."""
    levels, level_of = np.unique(_used(counts)[1:], return_inverse=True)
    events = np.bincount(level_of) * levels
    ends, edges = np.cumsum(events)[:, None] / events.sum(), np.arange(11) / 10
    starts = np.vstack([[[0.0]], ends[:-1]])
    shared = np.clip(np.minimum(ends, edges[1:]) - np.maximum(starts, edges[:-1]), 0, None)
    shared[levels == 0, 0] = 1
    return np.vstack([np.zeros(10), (shared / shared.sum(axis=1, keepdims=True))[level_of]])


def _lift_interval(pairs: Values, seed: int) -> Values:
    """Of the ratio of both means less 1, users drawn with both their values (n, 2)."""
    random, n_users = np.random.default_rng(seed), len(pairs)
    drawn = (np.bincount(random.integers(n_users, size=n_users), minlength=n_users) for _ in range(N_RESAMPLES))
    sums = np.stack([each @ pairs for each in drawn])
    return np.quantile(sums[:, 1] / sums[:, 0] - 1, [0.025, 0.975])


def _check_users(lists: Rows, profiles: Profiles) -> None:
    if len(lists) != len(profiles.offsets) - 1:
        n_profiles = len(profiles.offsets) - 1
        raise ValueError(f"each list needs its user's profile, got {len(lists)} and {n_profiles}; use profiles_of")


def _codes_by_item(categories: Category, n_rows: int) -> tuple[Rows, Rows, Rows]:
    """Codes of all items, each once per item, item after item; where an item's begin, and how many they are (N,)."""
    rows, codes = np.unique(np.stack(categories[:2]), axis=1)
    n_codes = np.bincount(rows, minlength=n_rows)
    return codes, np.cumsum(n_codes) - n_codes, n_codes


def _category_shares(profiles: Profiles, users: slice, by_item: tuple[Rows, Rows, Rows], n_names: int) -> Values:
    """Share of each category in the profiles of some users, (U, G), rows sum to 1; NaN without a category."""
    offsets, (codes, starts, n_codes) = profiles.offsets[users.start : users.stop + 1], by_item
    items, n_users = profiles.items[offsets[0] : offsets[-1]], len(offsets) - 1
    n = n_codes[items]
    at = np.arange(n.sum()) + np.repeat(starts[items] - (np.cumsum(n) - n), n)
    owners = np.repeat(np.repeat(np.arange(n_users), np.diff(offsets)), n)
    sums = np.bincount(owners * n_names + codes[at], 1 / np.repeat(n, n), minlength=n_users * n_names)
    shares, total = sums.reshape(n_users, n_names), sums.reshape(n_users, n_names).sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=np.full(shares.shape, np.nan), where=total > 0)


def _parts(n_users: int, width: int) -> list[slice]:
    """All users, in parts of about 2 million numbers when each user has `width`."""
    size = max(1, 2_000_000 // max(width, 1))
    return [slice(start, start + size) for start in range(0, n_users, size)]
