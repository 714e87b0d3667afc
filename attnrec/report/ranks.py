"""Where recommended items would stand if one event had not been: what-if ranks among all that can be recommended.

Asked of the model itself, so it needs nothing but scores; after the view of PRINCE (Ghazimatin et al. 2020,
arXiv:1911.08378) that an own action is a reason as far as the recommendation changes without it.
Shapes: L positions, N = n_items + 1 item rows, k items asked for, R shortened histories.
"""

import torch
from torch import Tensor

from attnrec.attribution import remove_events
from attnrec.attribution.removal import POSITIONS, chosen
from attnrec.dataset import Batch
from attnrec.models import Model

CELLS = 4_000_000
"""Of scores (histories x items) that are held at a time."""


@torch.no_grad()
def ranks_without(model: Model, batch: Batch, items: Tensor, *, removed: Tensor, candidates: Tensor) -> Tensor:
    """Ranks of some items for one user, each time with other events taken out.

    What is left closes up, as `attribution.without` says: no older event moves into the window. Among equal scores
    the smaller item row comes first, as in `ranking.top_k`.

    Args:
        model: in evaluation mode.
        batch: one user, (1, L).
        items: item rows asked for, (k,).
        removed: True where an event is taken out, (R, L) bool; a line of False is the full history.
        candidates: item rows that are ranked, (N,) bool; the same for every line, so that an item does not win or
            lose a place because another one may be recommended again.

    Returns:
        Ranks from 1, (R, k) int64.
    """
    at_a_time = max(1, min(POSITIONS // removed.shape[1], CELLS // len(candidates)))
    return torch.cat([_ranks(model, batch, items, some, candidates) for some in removed.split(at_a_time)])


def _ranks(model: Model, batch: Batch, items: Tensor, removed: Tensor, candidates: Tensor) -> Tensor:
    rows = torch.zeros(len(removed), dtype=torch.long, device=removed.device)
    left = remove_events(chosen(batch, rows), removed).slice(0, len(rows))
    scores = model.score(left).float().masked_fill(~candidates, float("-inf"))
    numbers = torch.arange(len(candidates), device=scores.device)
    ranks = []
    for item in items:  # one at a time: (R, N) and not (R, k, N) in memory
        own = scores[:, item, None]
        before = (scores > own) | ((scores == own) & (numbers < item))
        ranks.append(1 + before.sum(1))
    return torch.stack(ranks, dim=1)
