"""Ranking metrics as functions of ranks and of recommended items.

Shapes: U users, m relevant items (or hits) per user, k ranks. Ranks start at 1; `inf` is "not in the list".
Definitions follow Tamm, Damdinov & Vasilev 2021 (arXiv:2106.11127), who compare those of nine libraries. In the
formulas r is the rank of a relevant item, R the number of a user's relevant items, and hits are relevant items with
r <= k. For every rank metric the range is [0, 1] and higher is better.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


def recall(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute recall@k: n_hits / R, the fraction of a user's relevant items among the first k. Higher is better.

    Args:
        ranks: ranks of the relevant items, (..., m), `inf` for items not in the list.
        n_relevant: number of relevant items of each user, (...).
        k: length of the list.

    Returns:
        One value per user, (...). All rank metrics have the same arguments and shapes.
    """
    return _hits(ranks, k).sum(-1) / np.asarray(n_relevant)


def precision(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute precision@k: n_hits / k, the fraction of the k ranks with a relevant item. Higher is better.

    The maximum is min(R, k) / k. Lists shorter than k are divided by k, too.
    """
    del n_relevant
    return _hits(ranks, k).sum(-1) / k


def f1(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute F1@k: 2 precision recall / (precision + recall), 0 without a hit. Higher is better."""
    total = precision(ranks, n_relevant, k) + recall(ranks, n_relevant, k)
    product = 2 * precision(ranks, n_relevant, k) * recall(ranks, n_relevant, k)
    return np.divide(product, total, out=np.zeros_like(total), where=total > 0)


def average_precision(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute AP@k: the sum over hits of precision@r, divided by min(R, k). Higher is better.

    Its mean over users is MAP@k.
    """
    ordered = np.sort(np.asarray(ranks, dtype=float), axis=-1)
    n_hits = np.arange(1, ordered.shape[-1] + 1)
    return np.where(ordered <= k, n_hits / ordered, 0).sum(-1) / np.minimum(n_relevant, k)


def ndcg(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute nDCG@k: the sum over hits of 1 / log2(r + 1), divided by that of the ideal list. Higher is better.

    The ideal list has min(R, k) hits at its first ranks (Jarvelin & Kekalainen 2002, doi:10.1145/582415.582418, with
    binary relevance).
    """
    ranks = np.asarray(ranks, dtype=float)
    gain = np.where(ranks <= k, 1 / np.log2(ranks + 1), 0).sum(-1)
    ideal = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return gain / ideal[np.minimum(n_relevant, k)]


def reciprocal_rank(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute RR@k: 1 / r of the first hit, 0 without a hit. Higher is better.

    Its mean over users is MRR@k (Voorhees 1999, TREC-8).
    """
    del n_relevant
    first = np.min(np.asarray(ranks, dtype=float), axis=-1, initial=np.inf)
    return np.where(first <= k, 1 / first, 0)


def hit_rate(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute the hit rate@k: 1 with at least one hit, else 0 (Deshpande & Karypis 2004, doi:10.1145/963770.963776).

    Higher is better.
    """
    del n_relevant
    return _hits(ranks, k).any(-1).astype(float)


RANK_METRICS: dict[str, Callable[[ArrayLike, ArrayLike, int], Values]] = {
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "map": average_precision,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
    "hit_rate": hit_rate,
}
"""Rank metrics by short name; the key of a metric at k is `metric_name(name, k)`."""


def metric_name(metric: str, k: int) -> str:
    """Return the key of a metric at k, such as `ndcg_at_10`; MLflow does not allow @ in metric names."""
    return f"{metric}_at_{k}"


def metric_label(name: str) -> str:
    """Return a metric's key as text, such as `ndcg@10` for `ndcg_at_10`."""
    return name.replace("_at_", "@")


def coverage(recommended: NDArray[np.int64], n_items: int) -> float:
    """Compute catalogue coverage: the number of distinct recommended items / n_items (Ge et al. 2010).

    Range [0, 1]; higher is more of the catalogue, 1 if every item is recommended to at least one user
    (doi:10.1145/1864708.1864761).

    Args:
        recommended: item rows, (U, k), 0 = empty rank.
        n_items: size of the catalogue.
    """
    return len(np.unique(recommended[recommended > 0])) / n_items


def gini(recommended: NDArray[np.int64], n_items: int) -> float:
    """Compute the Gini coefficient of exposure: sum over items j of (2 j - n_items - 1) p_j / n_items.

    p_j are the items' shares of all recommendations in ascending order. Range [0, 1 - 1 / n_items]; lower is more
    equal: 0 if all items are recommended equally often, the maximum if only one item is; 0 for empty lists.

    Args:
        recommended: item rows, (U, k), 0 = empty rank.
        n_items: size of the catalogue.
    """
    exposure = np.sort(np.bincount(recommended.ravel(), minlength=n_items + 1)[1:])
    if not exposure.sum():
        return 0.0
    order = np.arange(1, n_items + 1)
    return float((2 * order - n_items - 1) @ exposure / (n_items * exposure.sum()))


def mean_popularity(recommended: NDArray[np.int64], item_counts: NDArray[np.int64]) -> float:
    """Compute the mean number of training events of the recommended items; 0 for empty lists.

    Range [0, largest count]; lower means less popular items. It is neither good nor bad by itself.

    Args:
        recommended: item rows, (U, k), 0 = empty rank.
        item_counts: number of training events by item row, (N,).
    """
    items = recommended[recommended > 0]
    return float(item_counts[items].mean()) if len(items) else 0.0


def bootstrap_interval(
    values: NDArray[np.float64], *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean over users (Efron 1979), values (U,)."""
    low, high = bootstrap_intervals(values[:, None], level=level, n_resamples=n_resamples, seed=seed)[0]
    return float(low), float(high)


def bootstrap_intervals(
    values: NDArray[np.float64], *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Values:
    """Compute percentile bootstrap intervals of several means over the same resampled users (Efron 1979).

    Args:
        values: one column per metric, (U, m).
        level: confidence level.
        n_resamples: number of resamples of the users.
        seed: seed of the resamples.

    Returns:
        Lower and upper ends, (m, 2).
    """
    random, n_users = np.random.default_rng(seed), len(values)
    means = np.empty((n_resamples, values.shape[1]))
    for number in range(n_resamples):
        weights = np.bincount(random.integers(n_users, size=n_users), minlength=n_users)
        means[number] = weights @ values / n_users
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).T


def _hits(ranks: ArrayLike, k: int) -> NDArray[np.bool_]:
    return np.asarray(ranks, dtype=float) <= k
