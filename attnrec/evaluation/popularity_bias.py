"""Popularity bias and novelty of recommended lists: exposure by popularity, popularity lift, self-information.

Shapes: U users, k ranks, E events, N item rows. Lists are item rows (U, k), 0 = empty rank. Counts (N,) are training
events by item row; row 0 is padding. A user without a value has NaN: compute means and intervals over the other users.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Histories

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

GROUPS = ("niche", "mixed", "blockbuster")
NO_HISTORY = "no history"
FIFTH = 0.2  # share of the items in the head, of the users in each outer group (Abdollahpouri et al. 2019)
N_RESAMPLES = 1000


class Profiles(NamedTuple):
    """Items of users' histories.

    Attributes:
        items: item rows with repetitions, (E,); those of user u are items[offsets[u] : offsets[u + 1]].
        offsets: (U + 1,).
    """

    items: Rows
    offsets: Rows

    def means(self, values: NDArray[Any]) -> Values:
        """Return the mean of the items' `values` (N,) over each user's items, (U,); NaN for users without an item."""
        lengths = np.diff(self.offsets)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        sums = np.bincount(owners, values[self.items], minlength=len(lengths))
        return np.divide(sums, lengths, out=np.full(len(lengths), np.nan), where=lengths > 0)


def profiles_of(histories: Histories, users: Rows) -> Profiles:
    """Return the profiles of `users`, user rows of `histories`, (U,)."""
    items = histories.items[histories.positions(users)].astype(np.int64)
    return Profiles(items, np.concatenate([[0], np.cumsum(histories.lengths[users])]).astype(np.int64))


def without_empty_ranks(lists: Rows) -> Profiles:
    """Return the lists as profiles, without their empty ranks."""
    filled = lists > 0
    return Profiles(lists[filled], np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int64))


def check_profiles(lists: Rows, profiles: Profiles) -> None:
    """Raise a ValueError unless there is one profile per list."""
    if len(lists) != len(profiles.offsets) - 1:
        n_profiles = len(profiles.offsets) - 1
        raise ValueError(
            f"each list needs a profile, got {len(lists)} lists and {n_profiles} profiles; use profiles_of"
        )


def exposure_by_decile(lists: Rows, counts: Rows) -> Values:
    """Compute the share of each user's recommendations in every decile of item popularity, least popular items first.

    A decile has a tenth of all training events (not of the items), like the item groups of Abdollahpouri et al. 2021
    (arXiv:2103.06364). Range [0, 1]; 0.1 in every decile is exposure proportional to use. An item at a boundary, or a
    group of equally popular items, is split between both deciles; items without an event are in the first decile.

    Returns:
        (U, 10), rows sum to 1; NaN for an empty list.
    """
    recommended = without_empty_ranks(lists)
    return np.stack([recommended.means(decile) for decile in _deciles(counts).T], axis=1)


def items_by_decile(counts: Rows) -> Values:
    """Return the number of items in each decile of `exposure_by_decile`, (10,); items at a boundary are split."""
    return _deciles(counts).sum(axis=0)


def head_share(profiles: Profiles, counts: Rows) -> Values:
    """Compute the share of head items in each profile, (U,): the most popular 20 % of the items with an event.

    Range [0, 1]; higher is more mainstream. NaN without a history (Abdollahpouri et al. 2019, arXiv:1907.13286).
    """
    levels, level_of, sizes = np.unique(_checked(counts)[1:], return_inverse=True, return_counts=True)
    n_more_popular = sizes.sum() - np.cumsum(sizes)
    # equally popular items at the boundary of the head belong to it with equal fractions
    in_head = np.clip((FIFTH * sizes[levels > 0].sum() - n_more_popular) / sizes, 0, 1)
    return profiles.means(np.concatenate([[0], in_head[level_of]]))


def user_groups(profiles: Profiles, counts: Rows) -> NDArray[np.object_]:
    """Group users by `head_share`: "niche" (lowest fifth), "mixed" or "blockbuster" (highest fifth), (U,).

    After Abdollahpouri et al. 2019 (arXiv:1907.13286), who count an item once per profile; here each event counts.
    Users with equal shares are in the same group, so a group may be larger than a fifth or empty; if all shares are
    equal, all users are mixed. Users without a history are in the group "no history".
    """
    shares = head_share(profiles, counts)
    groups = np.full(len(shares), NO_HISTORY, dtype=object)
    has_history = np.isfinite(shares)
    if has_history.any():
        low, high = np.quantile(shares[has_history], [FIFTH, 1 - FIFTH])
        groups[has_history] = "mixed"
        groups[(shares < low) | ((shares == low) & (low < high))] = "niche"
        groups[(shares > high) | ((shares == high) & (low < high))] = "blockbuster"
    return groups


def popularity_lift(
    lists: Rows, profiles: Profiles, counts: Rows, groups: NDArray[np.object_], *, seed: int = 0
) -> pd.DataFrame:
    """Compute the popularity lift of user groups: popularity of their lists / popularity of their profiles - 1.

    Delta GAP of Abdollahpouri et al. 2019 (arXiv:1907.13286), with numbers of events instead of raters. A group's
    popularity is the mean over its users of the mean count of their items. Range [-1, inf); 0 is no popularity bias,
    positive values mean that the recommended items are more popular than the items of the profiles.

    Args:
        lists: recommended items, (U, k).
        profiles: profiles of the same users.
        counts: training events by item row, (N,).
        groups: name of each user's group, (U,), such as from `user_groups`.
        seed: seed of the resamples.

    Returns:
        One row per group: group, n_users (with a list and a history of counted items), in_profiles and in_lists
        (mean events per item), lift, low and high (95 % bootstrap interval of lift over users).
    """
    check_profiles(lists, profiles)
    popularity = np.stack([profiles.means(counts), without_empty_ranks(lists).means(counts)], axis=1)
    has_both = (popularity[:, 0] > 0) & np.isfinite(popularity[:, 1])
    rows = []
    for name in [*GROUPS, *sorted(set(groups) - set(GROUPS))]:
        pairs = popularity[has_both & (groups == name)]
        if len(pairs):
            in_profiles, in_lists = pairs.mean(axis=0)
            lift = in_lists / in_profiles - 1
            rows.append((name, len(pairs), in_profiles, in_lists, lift, *_lift_interval(pairs, seed)))
    return pd.DataFrame(rows, columns=["group", "n_users", "in_profiles", "in_lists", "lift", "low", "high"])


def user_popularity_lift(lists: Rows, profiles: Profiles, counts: Rows) -> Values:
    """Compute the popularity lift of each user, (U,): `popularity_lift` of a group of one user.

    Range [-1, inf); 0 is no popularity bias. NaN without a list or without a history of counted items.
    """
    check_profiles(lists, profiles)
    in_profiles, in_lists = profiles.means(counts), without_empty_ranks(lists).means(counts)
    return np.divide(in_lists, in_profiles, out=np.full(len(lists), np.nan), where=in_profiles > 0) - 1


def novelty(lists: Rows, counts: Rows) -> Values:
    """Compute the novelty of each list in bits, (U,): the mean of -log2(item count / all counts) over its items.

    After Zhou et al. 2010 (doi:10.1073/pnas.1000488107), with numbers of events instead of users. An item without an
    event counts as one with a single event. Range [0, log2(number of events)]; higher is more novel. NaN for an empty
    list.
    """
    return without_empty_ranks(lists).means(-np.log2(np.maximum(counts, 1) / _checked(counts).sum()))


def _checked(counts: Rows) -> Rows:
    if not counts[1:].any():
        raise ValueError("popularity needs a training event, got none; pass item_counts() of the training histories")
    return counts


def _deciles(counts: Rows) -> Values:
    """Return the fraction of each item that belongs to each tenth of the events, (N, 10)."""
    levels, level_of = np.unique(_checked(counts)[1:], return_inverse=True)
    events = np.bincount(level_of) * levels
    ends, edges = np.cumsum(events)[:, None] / events.sum(), np.arange(11) / 10
    starts = np.vstack([[[0.0]], ends[:-1]])
    overlap = np.clip(np.minimum(ends, edges[1:]) - np.maximum(starts, edges[:-1]), 0, None)
    overlap[levels == 0, 0] = 1
    return np.vstack([np.zeros(10), (overlap / overlap.sum(axis=1, keepdims=True))[level_of]])


def _lift_interval(pairs: Values, seed: int) -> Values:
    """Return the 95 % bootstrap interval of the ratio of both means minus 1, pairs of values (n, 2)."""
    random, n_users = np.random.default_rng(seed), len(pairs)
    resamples = (np.bincount(random.integers(n_users, size=n_users), minlength=n_users) for _ in range(N_RESAMPLES))
    sums = np.stack([weights @ pairs for weights in resamples])
    return np.quantile(sums[:, 1] / sums[:, 0] - 1, [0.025, 0.975])
