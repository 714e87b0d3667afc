"""Beyond-accuracy metrics of an evaluation's lists: novelty, diversity, calibration and exposure.

Shapes: U evaluated users, k ranks.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Features, Histories, Holdout
from attnrec.evaluation.beyond_accuracy import calibration, category_diversity, intra_list_diversity
from attnrec.evaluation.evaluator import Evaluation, mean_intervals
from attnrec.evaluation.metrics import bootstrap_intervals, metric_name
from attnrec.evaluation.popularity_bias import (
    Profiles,
    Rows,
    Values,
    exposure_by_decile,
    items_by_decile,
    novelty,
    popularity_lift,
    profiles_of,
    user_groups,
    user_popularity_lift,
)

MAX_CATEGORIES = 1_000  # per column: a column with more takes as long as ranking and does not describe users' taste


@dataclass(frozen=True, eq=False)
class BeyondAccuracy:
    """Beyond-accuracy metrics of one evaluation.

    Attributes:
        evaluation: the evaluation with additional columns, means and intervals (see `measure_beyond_accuracy`).
        exposure: one row per decile of item popularity: decile (1 has the least popular items), n_items, share (of the
            recommendations, mean over users), low, high (95 % bootstrap interval). A share of 0.1 in every decile is
            exposure proportional to use (see `exposure_by_decile`). Empty if no user has a list.
        popularity_groups: `popularity_lift` of niche, mixed and blockbuster users; the groups are formed over all users
            of the holdout.
    """

    evaluation: Evaluation
    exposure: pd.DataFrame
    popularity_groups: pd.DataFrame


def measure_beyond_accuracy(
    evaluation: Evaluation,
    holdout: Holdout,
    *,
    k: int = 10,
    features: Features | None = None,
    vectors: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> BeyondAccuracy:
    """Measure the first k items of an evaluation's lists.

    Adds these metrics to the evaluation: novelty_at_k, popularity_lift_at_k (per user), diversity_COLUMN_at_k for each
    column of categories or vectors, miscalibration_COLUMN_at_k for each column of categories, and diversity_at_k for
    `vectors`. The modules `popularity_bias` and `beyond_accuracy` define them. Users without a value have NaN; means
    and intervals are over the other users, and a metric without any value is left out.

    Args:
        evaluation: evaluation of any model.
        holdout: the holdout of the evaluation.
        k: list length.
        features: item features by the rows of `holdout.histories.item_ids`; columns with more than 1,000 categories are
            ignored.
        vectors: item vectors, (n_items + 1, width), such as a model's item embeddings. To compare models, use the same
            vectors for all of them.
        seed: seed of the resamples.

    Raises:
        ValueError: if k exceeds the evaluated list length, or features or vectors are of another catalogue.
    """
    histories = holdout.histories
    _check_k(k, evaluation)
    lists, counts = evaluation.lists[:, :k], histories.item_counts()
    profiles = profiles_of(histories, holdout.users[evaluation.user_indices])
    values = {"novelty": novelty(lists, counts), "popularity_lift": user_popularity_lift(lists, profiles, counts)}
    if vectors is not None:
        _check_rows("vectors", len(vectors), histories)
        values["diversity"] = intra_list_diversity(lists, vectors)
    if features is not None:
        _check_rows("features", features.n_rows, histories)
        values |= _by_column(lists, profiles, features)
    metrics = {metric_name(name, k): column for name, column in values.items() if np.isfinite(column).any()}
    per_user = evaluation.per_user.assign(**metrics)
    extended = replace(
        evaluation,
        per_user=per_user,
        summary=evaluation.summary | {name: float(per_user[name].mean()) for name in metrics},
        intervals=evaluation.intervals | mean_intervals(per_user[list(metrics)], seed=seed),
    )
    # the groups are formed over all users of the holdout, as in `segments_of`, not only over those with a target
    groups = user_groups(profiles_of(histories, holdout.users), counts)[evaluation.user_indices]
    return BeyondAccuracy(
        evaluation=extended,
        exposure=_exposure(lists, counts, seed=seed),
        popularity_groups=popularity_lift(lists, profiles, counts, groups, seed=seed),
    )


def _by_column(lists: Rows, profiles: Profiles, features: Features) -> dict[str, Values]:
    """Compute diversity and miscalibration for the item columns that support them."""
    values = {f"diversity_{name}": intra_list_diversity(lists, column) for name, column in features.vectors.items()}
    for name, column in features.categories.items():
        if len(column[2]) <= MAX_CATEGORIES:
            values[f"diversity_{name}"] = category_diversity(lists, column)
            values[f"miscalibration_{name}"] = calibration(lists, profiles, column)
    return values


def _check_k(k: int, evaluation: Evaluation) -> None:
    length = evaluation.lists.shape[1]
    if not 1 <= k <= length:
        raise ValueError(f"k must be between 1 and the evaluated list length {length}, got {k}; evaluate at a larger k")


def _check_rows(name: str, n_rows: int, histories: Histories) -> None:
    if n_rows != histories.n_items + 1:
        raise ValueError(
            f"{name} must have a row per item row of the holdout, got {n_rows} for {histories.n_items + 1}; "
            "load them with holdout.histories.item_ids"
        )


def _exposure(lists: Rows, counts: Rows, *, seed: int) -> pd.DataFrame:
    shares = exposure_by_decile(lists, counts)
    shares = shares[np.isfinite(shares[:, 0])]
    if not len(shares):
        return pd.DataFrame(columns=["decile", "n_items", "share", "low", "high"], dtype=np.float64)
    low, high = bootstrap_intervals(shares, seed=seed).T
    deciles = {"decile": np.arange(1, 11), "n_items": items_by_decile(counts)}
    return pd.DataFrame(deciles | {"share": shares.mean(axis=0), "low": low, "high": high})
