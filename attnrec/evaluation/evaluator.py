"""How well a model answers a holdout's questions, over the whole catalogue, one value per user."""

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
    """What is measured: `ks` places, and whether what a user has seen may be recommended again."""

    ks: tuple[int, ...] = (5, 10, 20)
    filter_viewed: bool = True


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of one model on one holdout.

    Attributes:
        per_user: user_id, n_relevant and every rank metric at every k, one row per user asked; comparable
            pair by pair between models evaluated on the same holdout.
        summary: means over users, and catalogue metrics of the lists (coverage, gini, mean_popularity).
        intervals: 95 % bootstrap interval of each mean over users.
        asked: which of the holdout's users these are, indices, (U,).
        lists: what they were recommended, item rows of the holdout by rank, (U, k), 0 = empty place.
    """

    per_user: pd.DataFrame
    summary: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    asked: NDArray[np.int64]
    lists: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """What is kept beside the per-user values."""
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
    """Rank all items for every user asked and compare with what they did next.

    With `filter_viewed`, answers that the user has seen before can't be recommended and are not asked for;
    users left without an answer are not counted. An answer that the model does not know, or that has no
    training event, is a miss.

    Args:
        model: the model asked.
        holdout: the questions.
        item_ids: the model's own catalogue, where it is not the holdout's.
        ks: places to look at.
        filter_viewed: never recommend what is in the visible history.
        intervals: also compute bootstrap intervals; validation during training does without.
        on_batch: called with the number of users just ranked.

    Raises:
        ValueError: when no user is left to ask.
    """
    relevant = _relevant_items(holdout, filter_viewed=filter_viewed)
    n_relevant = np.bincount(relevant[:, 0], minlength=len(holdout.users))
    asked = np.flatnonzero(n_relevant)
    if not len(asked):
        raise ValueError("evaluation needs a user with an unseen answer, got none; set filter_viewed = false")
    histories = holdout.histories if item_ids is None else holdout.histories.recode(item_ids)
    recommended = np.zeros((len(asked), max(ks)), dtype=np.int64)
    for ranked in rank_users(model, histories, holdout.users[asked], k=max(ks), filter_viewed=filter_viewed):
        recommended[ranked.chosen, : ranked.items.shape[1]] = ranked.items.cpu().numpy()
        if on_batch is not None:
            on_batch(len(ranked.chosen))
    if item_ids is not None:
        recommended = holdout.histories.item_ids.rows_for(item_ids)[recommended]
    ranks = _ranks(recommended, relevant, asked, width=holdout.histories.n_items + 1)
    per_user = pd.DataFrame(
        {USER: holdout.histories.user_ids.decode(holdout.users[asked]), "n_relevant": n_relevant[asked]}
        | {
            metric_name(name, k): metric(ranks, n_relevant[asked], k)
            for name, metric in RANK_METRICS.items()
            for k in ks
        }
    )
    names = [metric_name(name, k) for name in RANK_METRICS for k in ks]
    return Evaluation(
        per_user=per_user,
        summary={name: float(per_user[name].mean()) for name in names} | _catalogue_metrics(recommended, holdout, ks),
        intervals=mean_intervals(per_user[names]) if intervals else {},
        asked=asked,
        lists=recommended,
    )


def mean_intervals(values: pd.DataFrame, *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of each column's mean over the users who have a value, which are some."""
    numbers = values.to_numpy(dtype=np.float64)
    known, ends = np.isfinite(numbers), np.empty((numbers.shape[1], 2))
    for users in np.unique(known, axis=1).T:
        columns = (known == users[:, None]).all(axis=0)
        ends[columns] = bootstrap_intervals(numbers[users][:, columns], seed=seed)
    return {str(name): (float(low), float(high)) for name, (low, high) in zip(values, ends, strict=True)}


def _relevant_items(holdout: Holdout, *, filter_viewed: bool) -> NDArray[np.int64]:
    """Distinct (question, item row) pairs that count as answers, (n, 2), sorted."""
    asked = np.repeat(np.arange(len(holdout.users)), np.diff(holdout.offsets))
    pairs = np.unique(np.stack([asked, holdout.targets], axis=1), axis=0)
    if not filter_viewed:
        return pairs
    histories, width = holdout.histories, holdout.histories.n_items + 1
    owners = np.repeat(np.arange(len(holdout.users)), histories.lengths[holdout.users])
    seen = owners * width + histories.items[histories.positions(holdout.users)]
    return pairs[~np.isin(pairs[:, 0] * width + pairs[:, 1], seen)]


def _ranks(
    recommended: NDArray[np.int64], relevant: NDArray[np.int64], asked: NDArray[np.int64], *, width: int
) -> NDArray[np.float64]:
    """Rank of each recommended place that is an answer, else inf: (n asked, k)."""
    answers = relevant[:, 0] * width + relevant[:, 1]
    hits = np.isin(asked[:, None] * width + recommended, answers) & (recommended > 0)
    return np.where(hits, np.arange(1, recommended.shape[1] + 1), np.inf)


def _catalogue_metrics(recommended: NDArray[np.int64], holdout: Holdout, ks: Sequence[int]) -> dict[str, float]:
    n_items = holdout.histories.n_items
    counts = holdout.histories.item_counts()
    values: dict[str, float] = {}
    for k in ks:
        lists = recommended[:, :k]
        values[metric_name("coverage", k)] = coverage(lists, n_items)
        values[metric_name("gini", k)] = gini(lists, n_items)
        values[metric_name("mean_popularity", k)] = mean_popularity(lists, counts)
    return values
