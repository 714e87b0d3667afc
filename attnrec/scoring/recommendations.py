"""Recommendations with their reasons, for many users, the same ones in every run.

Shapes: U users, k places, m reasons.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from attnrec.config import Config
from attnrec.dataset import Histories
from attnrec.models import Model
from attnrec.scoring.ranking import RankedBatch, rank_users
from attnrec.scoring.reasons import largest_reasons

TOLERANCE = 1e-3
"""How far a score may be from the sum of its contributions, as a part of all that was added and taken away."""

SPARE = 8  # candidates beyond k, so that rescoring by contributions can correct the order at the end of the list


class AdditivityError(RuntimeError):
    """A score that is not the sum of its contributions: reasons would not be true, so nothing may be written."""


class ScoreConfig(Config):
    """What is written: `k` items a user, `n_reasons` reasons each, seen items left out or not."""

    k: int = Field(default=10, gt=0)
    n_reasons: int = Field(default=5, ge=0)
    filter_viewed: bool = True
    batch_size: int | None = Field(default=None, gt=0)
    users_per_shard: int = Field(default=200_000, gt=0)


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The k best items of U users, in arrays.

    Attributes:
        exact: whether scores are sums over the history, so that there can be reasons.
        users: user rows, (U,).
        items: item rows by rank, (U, k); 0 where fewer than k could be recommended.
        scores: (U, k) float32, NaN at empty places.
        item_bias: the part of each score that is not from the history, (U, k) float32.
        reason_items, reason_contributions, reason_weights: (U, k, m); item row 0 where there are fewer,
            weight NaN where the model has none.
        explained_share: how much of all that the history added and took away the reasons are, 0 to 1, (U, k) float32; NaN
            without reasons.
    """

    exact: bool
    users: NDArray[np.int64]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    item_bias: NDArray[np.float32]
    reason_items: NDArray[np.int32]
    reason_contributions: NDArray[np.float32]
    reason_weights: NDArray[np.float32]
    explained_share: NDArray[np.float32]

    @property
    def other_events(self) -> NDArray[np.float32]:
        """What the events that are no reason here added (or, below zero, took away), (U, k); NaN without reasons."""
        if not self.exact:
            return np.full_like(self.scores, np.nan)
        told = np.where(self.reason_items > 0, self.reason_contributions, 0).sum(2, dtype=np.float64)
        return (self.scores.astype(np.float64) - self.item_bias - told).astype(np.float32)


def recommend(
    model: Model,
    histories: Histories,
    users: NDArray[np.int64],
    *,
    config: ScoreConfig,
    on_batch: Callable[[int], None] | None = None,
) -> Recommendations:
    """Find the k best items of each user and why.

    Winners are rescored in float32 from their contributions in the order of the history, so a score is the
    sum of what is written beside it; ties go to the smaller item row. Models without exact reasons give none.
    That this sum is the score the model ranked by is checked in every batch.

    Args:
        model: trained on the catalogue of `histories`.
        histories: what is known of the users.
        users: rows to recommend for, (U,).
        config: settings.
        on_batch: called with the number of users just done.

    Raises:
        AdditivityError: where a score is not the sum of its contributions.
    """
    k, m = config.k, config.n_reasons if model.exact_reasons else 0
    found = Recommendations(
        exact=model.exact_reasons,
        users=users,
        items=np.zeros((len(users), k), np.int32),
        scores=np.full((len(users), k), np.nan, np.float32),
        item_bias=np.full((len(users), k), np.nan, np.float32),
        reason_items=np.zeros((len(users), k, m), np.int32),
        reason_contributions=np.zeros((len(users), k, m), np.float32),
        reason_weights=np.full((len(users), k, m), np.nan, np.float32),
        explained_share=np.full((len(users), k), np.nan, np.float32),
    )
    bias = model.item_bias().detach().float()
    spare = SPARE if model.exact_reasons else 0
    ranking = rank_users(
        model, histories, users, k=k + spare, filter_viewed=config.filter_viewed, batch_size=config.batch_size
    )
    for ranked in ranking:
        _fill(found, ranked, bias, k=k, m=m, exact=model.exact_reasons)
        if on_batch is not None:
            on_batch(len(ranked.chosen))
    return found


def _fill(found: Recommendations, ranked: RankedBatch, bias: torch.Tensor, *, k: int, m: int, exact: bool) -> None:
    """Rescore one batch, cut it to k places and put it where it belongs."""
    with torch.inference_mode():
        contributions = ranked.encoded.contributions(ranked.items).float() if exact else None
        scores = ranked.scores
        if contributions is not None:  # float64 sums do not depend on how wide the batch was padded
            scores = (contributions.double().sum(1) + bias[ranked.items].double()).float()
            scores = scores.masked_fill(ranked.items == 0, float("-inf"))
            _check_sums(scores, contributions, bias[ranked.items], ranked)
        order = _by_score_then_row(scores, ranked.items)[:, :k]
        items, scores = ranked.items.gather(1, order), scores.gather(1, order)
        at = (ranked.chosen, slice(0, order.shape[1]))
        found.items[at] = items.cpu().numpy()
        found.scores[at] = scores.masked_fill(items == 0, float("nan")).cpu().numpy()
        found.item_bias[at] = bias[items].masked_fill(items == 0, float("nan")).cpu().numpy()
        if contributions is None or not m:
            return
        chosen = contributions.gather(2, order[:, None].expand(-1, contributions.shape[1], -1))
        reasons = largest_reasons(ranked.encoded, ranked.batch.items.to(items.device), chosen, m=m)
        at = (ranked.chosen, slice(0, order.shape[1]), slice(0, reasons.items.shape[2]))
        found.reason_items[at] = (reasons.items * (items > 0)[..., None]).cpu().numpy()
        found.reason_contributions[at] = reasons.contributions.cpu().numpy()
        found.explained_share[at[:2]] = reasons.explained_share.masked_fill(items == 0, float("nan")).cpu().numpy()
        if reasons.weights is not None:
            found.reason_weights[at] = reasons.weights.cpu().numpy()


def _check_sums(sums: torch.Tensor, contributions: torch.Tensor, bias: torch.Tensor, ranked: RankedBatch) -> None:
    """Hold the sums (B, k) to the scores that the model ranked by, which came about in another way."""
    size = contributions.abs().sum(1) + bias.abs()
    wrong = ~((sums - ranked.scores).abs() <= TOLERANCE * size.clamp(min=1)) & (ranked.items > 0)
    if wrong.any():
        user, place = wrong.nonzero()[0].tolist()
        raise AdditivityError(
            f"a score must be the sum of its contributions and the item's bias, got {ranked.scores[user, place]:.6g} "
            f"for item row {ranked.items[user, place]} and a sum of {sums[user, place]:.6g} ({int(wrong.sum())} of "
            f"{wrong.numel()} scores in a batch); the model's contributions and its scores disagree, mend the model"
        )


def _by_score_then_row(scores: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    by_row = items.argsort(dim=1, stable=True)
    return by_row.gather(1, scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True))
