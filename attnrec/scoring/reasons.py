"""From contributions of single events to the few reasons a person reads: one per item, largest first.

Shapes: B users, L events, k recommended items, m reasons.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attnrec.models import EncodedHistories


@dataclass(frozen=True, eq=False)
class Reasons:
    """The m history items that added most to each recommended item's score.

    Attributes:
        items: item rows of the history, largest contribution first, 0 where there are fewer, (B, k, m).
        contributions: in score units, summed over the events of the same item, (B, k, m).
        weights: shares of attention of the same events, (B, k, m); None where a model has none.
        explained_share: how much of all that the history's items added and took away the m are, 0 to 1, (B, k); NaN where
            they added and took away nothing.
    """

    items: Tensor
    contributions: Tensor
    weights: Tensor | None
    explained_share: Tensor


def largest_reasons(encoded: EncodedHistories, history: Tensor, contributions: Tensor, *, m: int) -> Reasons:
    """Join the events of the same item, then take the m that added most.

    Args:
        encoded: whose weights go along.
        history: item rows, (B, L).
        contributions: of each event to each recommended item, (B, L, k).
        m: reasons to give; items that added nothing (or took away) are no reasons.
    """
    ordered = history.sort(dim=1, stable=True)
    first = torch.ones_like(ordered.values, dtype=torch.bool)
    first[:, 1:] = ordered.values[:, 1:] != ordered.values[:, :-1]
    group = first.long().cumsum(1) - 1  # (B, L): number of the item among the row's distinct ones
    items = torch.zeros_like(history).scatter_(1, group, ordered.values)
    joined = _by_group(contributions.gather(1, ordered.indices[..., None].expand_as(contributions)), group)
    best = joined.masked_fill(items[..., None] == 0, 0).mT.topk(min(m, joined.shape[1]), dim=2)
    chosen = items[:, None].expand(-1, best.indices.shape[1], -1).gather(2, best.indices)
    weights = None
    if encoded.weights is not None:
        shares = _by_group(encoded.weights.gather(1, ordered.indices)[..., None], group).mT
        weights = shares.expand(-1, best.indices.shape[1], -1).gather(2, best.indices)
    told = best.values > 0
    explained_share = (best.values * told).sum(2) / joined.abs().sum(1)
    return Reasons(chosen * told, best.values, weights, explained_share)


def _by_group(values: Tensor, group: Tensor) -> Tensor:
    """Sum (B, L, k) values of the same group along L."""
    return torch.zeros_like(values).scatter_add_(1, group[..., None].expand_as(values), values)
