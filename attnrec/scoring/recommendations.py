"""Recommendations with reasons for many users, deterministic over runs.

Shapes: U users, B users of a batch, L history events, k ranks, m reasons.
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
"""Allowed difference of a score and the sum of its contributions, relative to the sum of their
absolute values (but at least 1)."""

N_EXTRA_CANDIDATES = 8  # beyond k, so that rescoring from contributions can reorder the end of the list


class AdditivityError(RuntimeError):
    """A score differs from the sum of its contributions: its reasons would be wrong, so nothing is written."""


class ScoreConfig(Config):
    """Settings of scoring.

    Attributes:
        k: items per user.
        n_reasons: maximum number of reasons per item.
        filter_viewed: exclude the items of the user's history.
        batch_size: users per batch; None chooses it by device (see `rank_users`).
        users_per_shard: users per Parquet file.
    """

    k: int = Field(default=10, gt=0)
    n_reasons: int = Field(default=5, ge=0)
    filter_viewed: bool = True
    batch_size: int | None = Field(default=None, gt=0)
    users_per_shard: int = Field(default=200_000, gt=0)


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The k best items of U users as arrays.

    Attributes:
        exact: True for a model with exact reasons: a score is the item bias plus the contributions of the history.
        users: user rows, (U,).
        items: item rows by rank, (U, k); 0 where fewer than k items can be recommended.
        scores: (U, k) float32; NaN where `items` is 0.
        item_bias: the part of each score that does not depend on the history, (U, k) float32.
        reason_items, reason_contributions, reason_weights: (U, k, m); the item row is 0 where there are fewer than m
            reasons, the weight is NaN for a model without attention weights.
        explained_share: share of the absolute contributions that the reasons cover, 0 to 1, (U, k) float32 (see
            `Reasons`); NaN without reasons.
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
        """Sum of the contributions of all events that are not among the reasons, (U, k); NaN if not `exact`."""
        if not self.exact:
            return np.full_like(self.scores, np.nan)
        explained = np.where(self.reason_items > 0, self.reason_contributions, 0).sum(2, dtype=np.float64)
        return (self.scores.astype(np.float64) - self.item_bias - explained).astype(np.float32)


def recommend(
    model: Model,
    histories: Histories,
    users: NDArray[np.int64],
    *,
    config: ScoreConfig,
    on_batch: Callable[[int], None] | None = None,
) -> Recommendations:
    """Recommend the k best items to each user, with reasons.

    For a model with exact reasons, the best items are rescored as item bias plus contributions, so that each score is
    the sum of the published parts. Every batch checks this sum against the score that the model ranked by. Ties go to
    the smaller item row. A model without exact reasons gives no reasons.

    Args:
        model: trained on the catalogue of `histories`.
        histories: the users' histories.
        users: user rows to recommend for, (U,).
        config: settings.
        on_batch: progress callback; receives the number of users of the batch.

    Raises:
        AdditivityError: if a score differs from the sum of its contributions by more than `TOLERANCE`.
    """
    k, m = config.k, config.n_reasons if model.exact_reasons else 0
    result = Recommendations(
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
    n_extra = N_EXTRA_CANDIDATES if model.exact_reasons else 0
    ranking = rank_users(
        model, histories, users, k=k + n_extra, filter_viewed=config.filter_viewed, batch_size=config.batch_size
    )
    for ranked in ranking:
        _fill(result, ranked, bias, k=k, m=m, exact=model.exact_reasons)
        if on_batch is not None:
            on_batch(len(ranked.positions))
    return result


def _fill(result: Recommendations, ranked: RankedBatch, bias: torch.Tensor, *, k: int, m: int, exact: bool) -> None:
    """Rescore one batch, keep its k best items and write them to the rows of its users."""
    with torch.inference_mode():
        contributions = ranked.encoded.contributions(ranked.items).float() if exact else None
        scores = ranked.scores
        if contributions is not None:  # float64: the rounded sum does not depend on the padding of the batch
            scores = (contributions.double().sum(1) + bias[ranked.items].double()).float()
            scores = scores.masked_fill(ranked.items == 0, float("-inf"))
            _check_sums(scores, contributions, bias[ranked.items], ranked)
        order = _by_score_then_row(scores, ranked.items)[:, :k]
        items, scores = ranked.items.gather(1, order), scores.gather(1, order)
        cells = (ranked.positions, slice(0, order.shape[1]))
        result.items[cells] = items.cpu().numpy()
        result.scores[cells] = scores.masked_fill(items == 0, float("nan")).cpu().numpy()
        result.item_bias[cells] = bias[items].masked_fill(items == 0, float("nan")).cpu().numpy()
        if contributions is None or not m:
            return
        of_best = contributions.gather(2, order[:, None].expand(-1, contributions.shape[1], -1))
        reasons = largest_reasons(ranked.encoded, ranked.batch.items.to(items.device), of_best, m=m)
        reason_cells = (*cells, slice(0, reasons.items.shape[2]))
        result.reason_items[reason_cells] = (reasons.items * (items > 0)[..., None]).cpu().numpy()
        result.reason_contributions[reason_cells] = reasons.contributions.cpu().numpy()
        result.explained_share[cells] = reasons.explained_share.masked_fill(items == 0, float("nan")).cpu().numpy()
        if reasons.weights is not None:
            result.reason_weights[reason_cells] = reasons.weights.cpu().numpy()


def _check_sums(sums: torch.Tensor, contributions: torch.Tensor, bias: torch.Tensor, ranked: RankedBatch) -> None:
    """Check the sums (B, k) against the scores that the model ranked by, which it computes separately."""
    size = contributions.abs().sum(1) + bias.abs()
    wrong = ~((sums - ranked.scores).abs() <= TOLERANCE * size.clamp(min=1)) & (ranked.items > 0)
    if wrong.any():
        user, rank = wrong.nonzero()[0].tolist()
        raise AdditivityError(
            f"a score must be the sum of its contributions and the item bias, got {ranked.scores[user, rank]:.6g} "
            f"for item row {ranked.items[user, rank]} and a sum of {sums[user, rank]:.6g} ({int(wrong.sum())} of "
            f"{wrong.numel()} scores in a batch); fix `contributions` or `scores` of the model"
        )


def _by_score_then_row(scores: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    by_row = items.argsort(dim=1, stable=True)
    return by_row.gather(1, scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True))
