"""Whether reasons stay when an event goes that is not the first of them.

After Alvarez-Melis & Jaakkola 2018 (arXiv:1806.08049), who ask that explanations of inputs that are nearly the same
be nearly the same; their inputs are continuous, and their measure a Lipschitz constant.
Shapes: B users, L positions.
"""

import torch
from torch import Tensor

from attnrec.attribution import remove_events
from attnrec.faithfulness.orders import REMOVED, TIES, Given, drawn, levels, places
from attnrec.faithfulness.top_items import Explained
from attnrec.models import Model

FIRST = 3


def stability(model: Model, explained: Explained, at: Tensor, *, method: str, given: Given) -> Tensor:
    """Overlap of the first 3 reasons before and after one event is taken out, both among the events that are left.

    One event that is not the method's first reason is drawn and taken out of the history, the method is asked again
    for the same item, and the first 3 of the events left in the order before and those in the order after are
    compared as sets: the size of what they share by the size of what is in either (Jaccard). Events are told apart
    by their position, not by their item. A method whose values never tie nor depend on other events has 1; two
    random orders of n events left have about 3 / (2n - 3).

    Args:
        model: in evaluation mode.
        explained: B users with two events at least.
        at: places in the method's order with the full history, (B, L).
        method: a name in `METHODS`.
        given: as for `levels`; its seed also draws the event, the same for all methods unless it is one's first reason.

    Returns:
        (B,) float64, 0 to 1; NaN for fewer than 5 events, where any 3 of those left are nearly or quite all.
    """
    batch, items = explained.batch, explained.items
    draws = drawn(batch, items, seed=given.seed, purpose=REMOVED).masked_fill((at == 0) | ~batch.real, -1)
    gone = draws.argmax(1, keepdim=True)
    removed = torch.zeros_like(batch.real).scatter(1, gone, value=True)
    left = remove_events(batch, removed)
    closed_up = removed.byte().sort(dim=1, stable=True).indices
    before = (at - (at > at.gather(1, gone)).long()).gather(1, closed_up)
    found = levels(model, left, items, method=method, given=given)
    after = places(found, drawn(left, items, seed=given.seed, purpose=TIES), real=left.real)
    one, other = (before < FIRST) & left.real, (after < FIRST) & left.real
    overlap = (one & other).sum(1).double() / (one | other).sum(1)
    return overlap.masked_fill(left.lengths <= FIRST, float("nan"))
