"""What recommended lists are like, right or wrong: whom they suit, and which items they show.

Shapes: U users asked, k places.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Features, Histories, Holdout
from attnrec.evaluation.beyond_accuracy import (
    Profiles,
    Rows,
    Values,
    calibration,
    category_diversity,
    exposure_by_decile,
    intra_list_diversity,
    items_by_decile,
    novelty,
    popularity_lift,
    profiles_of,
    user_groups,
    user_popularity_lift,
)
from attnrec.evaluation.evaluator import Evaluation, mean_intervals
from attnrec.evaluation.metrics import bootstrap_intervals, metric_name

MOST_CATEGORIES = 1_000  # in a column: beyond that it costs as much as ranking, and is no taste that people have


@dataclass(frozen=True, eq=False)
class BeyondAccuracy:
    """What the lists of one evaluation are like, right or wrong.

    Attributes:
        evaluation: with more columns, means and intervals than it had (see `measure_beyond_accuracy`).
        exposure: decile of popularity (1 has the least popular items), n_items in it, share of the places (mean over
            users), low, high (95 % bootstrap); 0.1 everywhere is exposure as use has it (see `exposure_by_decile`). No
            rows where nobody has a list.
        popularity_groups: `popularity_lift` of niche, mixed and blockbuster users, of all that the holdout asks.
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
    """Say what the first k places of an evaluation's lists hold, right or wrong.

    The evaluation gets novelty_at_k, popularity_lift_at_k (a user's own), diversity_COLUMN_at_k for each column of
    categories or vectors, miscalibration_COLUMN_at_k for those of categories, and diversity_at_k for `vectors`; see
    `beyond_accuracy` for what they are. Users without a value have NaN, means and intervals are over the others, and a
    metric that nobody has is left out.

    Args:
        evaluation: of any model.
        holdout: the questions it was asked.
        k: places looked at.
        features: of the items, by the rows of `holdout.histories.item_ids`; columns of more than 1,000 categories are
            left out.
        vectors: (n_items + 1, width), such as a model's item vectors. Models compare in the same ones only.
        seed: of the resamples.

    Raises:
        ValueError: for more places than were evaluated, or features or vectors of another catalogue.
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
    known = {metric_name(name, k): found for name, found in values.items() if np.isfinite(found).any()}
    per_user = evaluation.per_user.assign(**known)
    more = replace(
        evaluation,
        per_user=per_user,
        summary=evaluation.summary | {name: float(per_user[name].mean()) for name in known},
        intervals=evaluation.intervals | mean_intervals(per_user[list(known)], seed=seed),
    )
    # all users of the holdout are grouped, as segments are, whoever of them was left without an answer
    groups = user_groups(profiles_of(histories, holdout.users), counts)[evaluation.user_indices]
    return BeyondAccuracy(
        evaluation=more,
        exposure=_exposure(lists, counts, seed=seed),
        popularity_groups=popularity_lift(lists, profiles, counts, groups, seed=seed),
    )


def _by_column(lists: Rows, profiles: Profiles, features: Features) -> dict[str, Values]:
    """Diversity and miscalibration of every column of the items that says something of them."""
    values = {f"diversity_{name}": intra_list_diversity(lists, column) for name, column in features.vectors.items()}
    for name, column in features.categories.items():
        if len(column[2]) <= MOST_CATEGORIES:
            values[f"diversity_{name}"] = category_diversity(lists, column)
            values[f"miscalibration_{name}"] = calibration(lists, profiles, column)
    return values


def _check_k(k: int, evaluation: Evaluation) -> None:
    most = evaluation.lists.shape[1]
    if not 1 <= k <= most:
        raise ValueError(f"k must be 1 to {most}, the places that were evaluated, got {k}; evaluate at larger ks")


def _check_rows(name: str, n_rows: int, histories: Histories) -> None:
    if n_rows != histories.n_items + 1:
        raise ValueError(
            f"{name} must have a row per item row of the holdout, got {n_rows} for {histories.n_items + 1}; "
            "load them by holdout.histories.item_ids"
        )


def _exposure(lists: Rows, counts: Rows, *, seed: int) -> pd.DataFrame:
    shares = exposure_by_decile(lists, counts)
    shares = shares[np.isfinite(shares[:, 0])]
    if not len(shares):
        return pd.DataFrame(columns=["decile", "n_items", "share", "low", "high"], dtype=np.float64)
    low, high = bootstrap_intervals(shares, seed=seed).T
    deciles = {"decile": np.arange(1, 11), "n_items": items_by_decile(counts)}
    return pd.DataFrame(deciles | {"share": shares.mean(axis=0), "low": low, "high": high})
