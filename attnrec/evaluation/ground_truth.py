"""Accuracy of explanations on the sample log, whose events have known causes.

`sample_log` generates the log: after a cause item a user soon buys its effect item.
Shapes: B users, k ranks.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attribution import attribute
from attnrec.dataset import Holdout
from attnrec.models import Model
from attnrec.sample import SampleLog
from attnrec.schema import DATETIME, ITEM, USER
from attnrec.scoring.ranking import RankedBatch, rank_users
from attnrec.scoring.reasons import largest_reasons


@dataclass(frozen=True)
class GroundTruth:
    """How often an attribution method finds the cause of a recommendation.

    Attributes:
        n_hits: number of recommended targets that have a known cause.
        cause_share: fraction of the hits whose first reason is the cause, [0, 1], higher is better; NaN without a hit.
        n_recommendations: number of all recommendations to the same users.
        distractor_share: fraction of them whose first reason is the distractor, the most frequent item, which causes
            nothing, [0, 1]; lower is better.
        distractor_share_at_random: expected `distractor_share` if the first reason were drawn uniformly from the
            distinct items of the history.
    """

    n_hits: int
    cause_share: float
    n_recommendations: int
    distractor_share: float
    distractor_share_at_random: float


def ground_truth(
    model: Model, holdout: Holdout, log: SampleLog, *, method: str = "contribution", k: int = 10, seed: int = 0
) -> GroundTruth:
    """Compare the first reason of each recommendation with the known cause, for users whose target has one.

    The attributions of events of the same item are summed to one reason. A recommendation without a positive
    attribution has no first reason and counts as one that misses the cause.

    Args:
        model: model trained on the histories of the holdout, or on a part of them.
        holdout: one target per user, as from `split_last`.
        log: the sample log from which the histories were made.
        method: name of an attribution method in `attnrec.attribution.METHODS`.
        k: number of recommended items per user.
        seed: seed of attribution methods that use random numbers.

    Raises:
        ValueError: for a method that does not support the model, or a holdout without a target that has a cause.
    """
    causes = planted_causes(holdout, log)
    user_indices = np.flatnonzero(causes)
    if not len(user_indices):
        raise ValueError(
            "ground truth needs a target with a known cause, got none; use the sample log that the histories come from"
        )
    histories, counts = holdout.histories, torch.from_numpy(holdout.histories.item_counts())
    distractor = histories.item_ids.row(log.distractor) if log.distractor in histories.item_ids else -1
    n_recommendations, cause_found, is_distractor, expected = 0, [], [], []
    for ranked in rank_users(model, histories, holdout.users[user_indices], k=k):
        attributions = attribute(model, ranked.batch, ranked.items, method=method, seed=seed, counts=counts)
        first = _first_reasons(ranked, attributions)
        filled = ranked.items > 0
        batch_users = user_indices[ranked.positions]
        targets = torch.from_numpy(holdout.targets[holdout.offsets[:-1][batch_users]]).to(first.device)
        batch_causes = torch.from_numpy(causes[batch_users]).to(first.device)
        cause_found.append((first == batch_causes[:, None])[ranked.items == targets[:, None]])
        is_distractor.append((first == distractor)[filled])
        probabilities = _uniform_probabilities(ranked.batch.items, distractor).to(filled.device)
        expected.append((probabilities[:, None] * filled).sum())
        n_recommendations += int(filled.sum())
    hits = torch.cat(cause_found).double()
    return GroundTruth(
        n_hits=len(hits),
        cause_share=float(hits.mean()),
        n_recommendations=n_recommendations,
        distractor_share=float(torch.cat(is_distractor).double().mean()),
        distractor_share_at_random=float(sum(expected)) / n_recommendations,
    )


def planted_causes(holdout: Holdout, log: SampleLog) -> NDArray[np.int64]:
    """Return the item row of the cause of each user's first target, 0 if it has no known cause, (n users,)."""
    histories, first = holdout.histories, holdout.offsets[:-1]
    targets = pd.DataFrame(
        {
            USER: histories.user_ids.decode(holdout.users),
            ITEM: histories.item_ids.decode(holdout.targets[first]),
            DATETIME: histories.to_datetime(holdout.target_times[first]),
        }
    )
    truth = log.truth.drop_duplicates([USER, ITEM, DATETIME]).astype({DATETIME: targets[DATETIME].dtype})
    causes = targets.merge(truth, on=[USER, ITEM, DATETIME], how="left")["cause"]
    rows = np.zeros(len(causes), dtype=np.int64)
    has_cause = causes.notna().to_numpy()
    rows[has_cause] = histories.item_ids.encode(causes[has_cause])
    return np.maximum(rows, 0)


def _first_reasons(ranked: RankedBatch, attributions: Tensor) -> Tensor:
    """Return the item row of the largest reason of each recommended item, 0 without a positive one, (B, k)."""
    history = ranked.batch.items.to(attributions.device)
    return largest_reasons(ranked.encoded, history, attributions, m=1).items[..., 0]


def _uniform_probabilities(histories: Tensor, item: int) -> Tensor:
    """Return the probability of drawing `item` uniformly from the distinct items of each history, (B,)."""
    distinct = [row[row > 0].unique() for row in histories]
    return torch.tensor([float((items == item).any()) / max(1, len(items)) for items in distinct])
