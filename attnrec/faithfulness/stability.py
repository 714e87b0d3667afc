"""Stability: whether an attribution stays the same when an event other than its first is removed.

After Alvarez-Melis & Jaakkola 2018 (arXiv:1806.08049), who require similar explanations for similar inputs; their
inputs are continuous, and their measure is a Lipschitz constant.
Shapes: B users, L positions.
"""

import torch
from torch import Tensor

from attnrec.attribution import remove_events
from attnrec.faithfulness.orders import REMOVED, TIES, MethodOptions, attribution_levels, random_numbers, rank_events
from attnrec.faithfulness.top_items import TopItems
from attnrec.models import Model

TOP = 3


def stability(model: Model, top_items: TopItems, ranks: Tensor, *, method: str, options: MethodOptions) -> Tensor:
    """Compute the Jaccard overlap of the top 3 events before and after the removal of one event.

    One random event that is not the method's first is removed from the history, and the method is applied again for
    the same item. The top 3 of the remaining events in the order before and in the order after are compared as sets:
    intersection by union. Events are identified by their position, not by their item. Higher is better. A method
    without ties whose values do not depend on other events has 1; two random orders of n remaining events have about
    3 / (2n - 3).

    Args:
        model: in evaluation mode.
        top_items: users with at least two events, with their explained items.
        ranks: rank of each event in the method's order for the full history, (B, L).
        method: a name in `METHODS`.
        options: options of the method; their seed also selects the removed event, the same for all methods unless it
            is a method's first event.

    Returns:
        (B,) float64, 0 to 1; NaN for fewer than 5 events, where the top 3 are almost all remaining events.
    """
    batch, items = top_items.batch, top_items.items
    numbers = random_numbers(batch, items, seed=options.seed, purpose=REMOVED)
    index = numbers.masked_fill((ranks == 0) | ~batch.real, -1).argmax(1, keepdim=True)
    removed = torch.zeros_like(batch.real).scatter(1, index, value=True)
    shortened = remove_events(batch, removed)
    order = removed.byte().sort(dim=1, stable=True).indices
    before = (ranks - (ranks > ranks.gather(1, index)).long()).gather(1, order)
    levels = attribution_levels(model, shortened, items, method=method, options=options)
    tie_breakers = random_numbers(shortened, items, seed=options.seed, purpose=TIES)
    after = rank_events(levels, tie_breakers, real=shortened.real)
    top_before, top_after = (before < TOP) & shortened.real, (after < TOP) & shortened.real
    overlap = (top_before & top_after).sum(1).double() / (top_before | top_after).sum(1)
    return overlap.masked_fill(shortened.lengths <= TOP, float("nan"))
