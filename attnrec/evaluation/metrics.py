"""Ranking metrics: functions of ranks and of recommended items, never of a model.

Shapes: U users, m relevant items (or hits) of each, k places. Ranks start at 1; `inf` is "not in the list".
Definitions follow Tamm, Damdinov & Vasilev 2021 (arXiv:2106.11127), who compare those of nine libraries.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


def recall(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Share of a user's relevant items among the first k.

    Args:
        ranks: ranks of the relevant items, (..., m), `inf` where absent.
        n_relevant: relevant items of each user, (...).
        k: places looked at.

    Returns:
        (...), one value per user; so do all metrics of ranks here.
    """
    return _hits(ranks, k).sum(-1) / np.asarray(n_relevant)


def precision(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Share of the first k places that hold relevant items."""
    del n_relevant
    return _hits(ranks, k).sum(-1) / k


def f1(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Harmonic mean of precision and recall, 0 when both are."""
    total = precision(ranks, n_relevant, k) + recall(ranks, n_relevant, k)
    product = 2 * precision(ranks, n_relevant, k) * recall(ranks, n_relevant, k)
    return np.divide(product, total, out=np.zeros_like(total), where=total > 0)


def average_precision(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Mean over relevant items of the precision at their rank, over min(n_relevant, k); its mean is MAP."""
    ordered = np.sort(np.asarray(ranks, dtype=float), axis=-1)
    found = np.arange(1, ordered.shape[-1] + 1)
    return np.where(ordered <= k, found / ordered, 0).sum(-1) / np.minimum(n_relevant, k)


def ndcg(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Discounted gain 1 / log2(rank + 1), relative to the best order (Jarvelin & Kekalainen 2002)."""
    ranks = np.asarray(ranks, dtype=float)
    gain = np.where(ranks <= k, 1 / np.log2(ranks + 1), 0).sum(-1)
    best = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return gain / best[np.minimum(n_relevant, k)]


def reciprocal_rank(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """1 / rank of the first relevant item among the first k, else 0; its mean is MRR."""
    del n_relevant
    first = np.min(np.asarray(ranks, dtype=float), axis=-1, initial=np.inf)
    return np.where(first <= k, 1 / first, 0)


def hit_rate(ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """1 when any relevant item is among the first k."""
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
"""Short name -> metric of ranks; the short name at k is called `metric_name(name, k)` everywhere."""


def metric_name(metric: str, k: int) -> str:
    """`ndcg_at_10`: MLflow allows no @ in a metric's name."""
    return f"{metric}_at_{k}"


def coverage(recommended: NDArray[np.int64], n_items: int) -> float:
    """Share of the catalogue that is recommended to somebody; recommended is (U, k) item rows, 0 = empty place."""
    return len(np.unique(recommended[recommended > 0])) / n_items


def gini(recommended: NDArray[np.int64], n_items: int) -> float:
    """Inequality of exposure over the catalogue: 0 all items equally often, near 1 one item takes all."""
    exposure = np.sort(np.bincount(recommended.ravel(), minlength=n_items + 1)[1:])
    if not exposure.sum():
        return 0.0
    order = np.arange(1, n_items + 1)
    return float((2 * order - n_items - 1) @ exposure / (n_items * exposure.sum()))


def mean_popularity(recommended: NDArray[np.int64], item_counts: NDArray[np.int64]) -> float:
    """Mean number of training events of the recommended items; item_counts is (N,) by item row."""
    filled = recommended[recommended > 0]
    return float(item_counts[filled].mean()) if len(filled) else 0.0


def bootstrap_interval(
    values: NDArray[np.float64], *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over users (Efron 1979), values (U,)."""
    low, high = bootstrap_intervals(values[:, None], level=level, n_resamples=n_resamples, seed=seed)[0]
    return float(low), float(high)


def bootstrap_intervals(
    values: NDArray[np.float64], *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Values:
    """Percentile bootstrap intervals of several means over the same resampled users.

    Args:
        values: one column per metric, (U, m).
        level: share of resamples inside.
        n_resamples: how often users are drawn anew.
        seed: of the draws.

    Returns:
        Lower and upper ends, (m, 2).
    """
    random, n_users = np.random.default_rng(seed), len(values)
    means = np.empty((n_resamples, values.shape[1]))
    for number in range(n_resamples):
        drawn = np.bincount(random.integers(n_users, size=n_users), minlength=n_users)
        means[number] = drawn @ values / n_users
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).T


def _hits(ranks: ArrayLike, k: int) -> NDArray[np.bool_]:
    return np.asarray(ranks, dtype=float) <= k
