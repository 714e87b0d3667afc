"""Reasons of a recommendation: contributions of history events, summed by item, the m largest first.

Shapes: B users, L history events, k recommended items, m reasons.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attnrec.models import EncodedHistories


@dataclass(frozen=True, eq=False)
class Reasons:
    """The m history items with the largest positive contributions to each recommended item's score.

    Attributes:
        items: item rows of the history, largest contribution first, (B, k, m); 0 where there are fewer than m reasons.
        contributions: in score units, summed over the events of the same item, (B, k, m).
        weights: attention weights, summed over the same events, (B, k, m); None for a model without attention weights.
        explained_share: sum of the reasons' contributions over the sum of the absolute contributions of all history
            items, 0 to 1, (B, k); NaN where all contributions are 0.
    """

    items: Tensor
    contributions: Tensor
    weights: Tensor | None
    explained_share: Tensor


def largest_reasons(encoded: EncodedHistories, history: Tensor, contributions: Tensor, *, m: int) -> Reasons:
    """Sum contributions over the events of the same item and take the m largest.

    Args:
        encoded: the encoded histories; provides the attention weights.
        history: item rows, (B, L); 0 is padding.
        contributions: contribution of each event to each recommended item, (B, L, k).
        m: maximum number of reasons. Items whose contribution is 0 or negative are never reasons.
    """
    ordered = history.sort(dim=1, stable=True)
    first = torch.ones_like(ordered.values, dtype=torch.bool)
    first[:, 1:] = ordered.values[:, 1:] != ordered.values[:, :-1]
    group = first.long().cumsum(1) - 1  # (B, L): index among the distinct items of the history
    items = torch.zeros_like(history).scatter_(1, group, ordered.values)
    by_item = _sum_by_group(contributions.gather(1, ordered.indices[..., None].expand_as(contributions)), group)
    best = by_item.masked_fill(items[..., None] == 0, 0).mT.topk(min(m, by_item.shape[1]), dim=2)
    reason_items = items[:, None].expand(-1, best.indices.shape[1], -1).gather(2, best.indices)
    weights = None
    if encoded.weights is not None:
        shares = _sum_by_group(encoded.weights.gather(1, ordered.indices)[..., None], group).mT
        weights = shares.expand(-1, best.indices.shape[1], -1).gather(2, best.indices)
    positive = best.values > 0
    explained_share = (best.values * positive).sum(2) / by_item.abs().sum(1)
    return Reasons(reason_items * positive, best.values, weights, explained_share)


def _sum_by_group(values: Tensor, group: Tensor) -> Tensor:
    """Sum values (B, L, k) with the same group number along L; result g holds group g."""
    return torch.zeros_like(values).scatter_add_(1, group[..., None].expand_as(values), values)
