"""Evaluation of a model on a holdout: full-catalogue ranking, one value per user and metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.config import Config
from attnrec.dataset import Holdout, Vocabulary
from attnrec.evaluation.metrics import (
    RANK_METRICS,
    bootstrap_intervals,
    coverage,
    gini,
    mean_popularity,
    metric_name,
)
from attnrec.models import Model
from attnrec.schema import USER
from attnrec.scoring.ranking import rank_users


class EvaluateConfig(Config):
    """Evaluation settings, the TOML table [evaluate].

    Attributes:
        ks: list lengths at which metrics are computed. Default 5, 10 and 20.
        filter_viewed: exclude the items of a user's history from the ranking and from the targets. Default true.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    filter_viewed: bool = True


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics and lists of one model on one holdout.

    Attributes:
        per_user: user_id, n_relevant and every rank metric at every k, one row per evaluated user. Models evaluated on
            the same holdout have the same users, so that they can be compared by paired tests.
        summary: means over users, and the catalogue metrics coverage, gini and mean_popularity.
        intervals: 95 % bootstrap interval of each mean over users.
        user_indices: indices of the evaluated users in `holdout.users`, (U,).
        lists: recommended items by rank, as item rows of the holdout, (U, k), 0 = empty rank.
    """

    per_user: pd.DataFrame
    summary: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    user_indices: NDArray[np.int64]
    lists: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Return summary, intervals and the number of users, for JSON files."""
        return {"metrics": self.summary, "intervals": self.intervals, "n_users": len(self.per_user)}


def evaluate(
    model: Model,
    holdout: Holdout,
    *,
    ks: Sequence[int] = (5, 10, 20),
    filter_viewed: bool = True,
    item_ids: Vocabulary | None = None,
    intervals: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Rank the whole catalogue for every user of the holdout and compare the lists with the user's targets.

    With `filter_viewed`, items of a user's history are excluded from the list and from the targets; users without a
    remaining target are not evaluated. A target that the model's catalogue lacks, or that has no training event, counts
    as a miss.

    Args:
        model: the model to evaluate.
        holdout: histories and targets of the users.
        ks: list lengths.
        filter_viewed: exclude items of the user's history.
        item_ids: the model's catalogue, if it differs from the holdout's.
        intervals: compute bootstrap intervals; validation during training skips them.
        on_batch: called with the number of users of each ranked batch.

    Raises:
        ValueError: if no user has a target.
    """
    relevant = _relevant_items(holdout, filter_viewed=filter_viewed)
    n_relevant = np.bincount(relevant[:, 0], minlength=len(holdout.users))
    user_indices = np.flatnonzero(n_relevant)
    if not len(user_indices):
        raise ValueError(
            "evaluation needs a user with a target that is not in the user's history, got none; "
            "set filter_viewed = false or use a longer log"
        )
    n_relevant, users = n_relevant[user_indices], holdout.users[user_indices]
    histories = holdout.histories if item_ids is None else holdout.histories.recode(item_ids)
    lists = np.zeros((len(users), max(ks)), dtype=np.int64)
    for ranked in rank_users(model, histories, users, k=max(ks), filter_viewed=filter_viewed):
        lists[ranked.positions, : ranked.items.shape[1]] = ranked.items.cpu().numpy()
        if on_batch is not None:
            on_batch(len(ranked.positions))
    if item_ids is not None:
        lists = holdout.histories.item_ids.rows_for(item_ids)[lists]
    ranks = _hit_ranks(lists, relevant, user_indices, width=holdout.histories.n_items + 1)
    metrics = {metric_name(name, k): metric(ranks, n_relevant, k) for name, metric in RANK_METRICS.items() for k in ks}
    per_user = pd.DataFrame({USER: holdout.histories.user_ids.decode(users), "n_relevant": n_relevant} | metrics)
    means = {name: float(per_user[name].mean()) for name in metrics}
    return Evaluation(
        per_user=per_user,
        summary=means | _catalogue_metrics(lists, holdout, ks),
        intervals=mean_intervals(per_user[list(metrics)]) if intervals else {},
        user_indices=user_indices,
        lists=lists,
    )


def mean_intervals(values: pd.DataFrame, *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Compute the 95 % bootstrap interval of each column's mean over the users with a finite value.

    Every column needs at least one finite value.
    """
    numbers = values.to_numpy(dtype=np.float64)
    finite, ends = np.isfinite(numbers), np.empty((numbers.shape[1], 2))
    for users in np.unique(finite, axis=1).T:
        columns = (finite == users[:, None]).all(axis=0)
        ends[columns] = bootstrap_intervals(numbers[users][:, columns], seed=seed)
    return {str(name): (float(low), float(high)) for name, (low, high) in zip(values, ends, strict=True)}


def _relevant_items(holdout: Holdout, *, filter_viewed: bool) -> NDArray[np.int64]:
    """Return the distinct (user index, item row) pairs of the targets, (n, 2), sorted."""
    user_indices = np.repeat(np.arange(len(holdout.users)), np.diff(holdout.offsets))
    pairs = np.unique(np.stack([user_indices, holdout.targets], axis=1), axis=0)
    if not filter_viewed:
        return pairs
    histories, width = holdout.histories, holdout.histories.n_items + 1
    owners = np.repeat(np.arange(len(holdout.users)), histories.lengths[holdout.users])
    viewed = owners * width + histories.items[histories.positions(holdout.users)]
    return pairs[~np.isin(pairs[:, 0] * width + pairs[:, 1], viewed)]


def _hit_ranks(
    lists: NDArray[np.int64], relevant: NDArray[np.int64], user_indices: NDArray[np.int64], *, width: int
) -> NDArray[np.float64]:
    """Return the rank of each recommended item that is relevant, `inf` for the others, (U, k)."""
    targets = relevant[:, 0] * width + relevant[:, 1]
    hits = np.isin(user_indices[:, None] * width + lists, targets) & (lists > 0)
    return np.where(hits, np.arange(1, lists.shape[1] + 1), np.inf)


def _catalogue_metrics(lists: NDArray[np.int64], holdout: Holdout, ks: Sequence[int]) -> dict[str, float]:
    n_items = holdout.histories.n_items
    counts = holdout.histories.item_counts()
    values: dict[str, float] = {}
    for k in ks:
        values[metric_name("coverage", k)] = coverage(lists[:, :k], n_items)
        values[metric_name("gini", k)] = gini(lists[:, :k], n_items)
        values[metric_name("mean_popularity", k)] = mean_popularity(lists[:, :k], counts)
    return values
