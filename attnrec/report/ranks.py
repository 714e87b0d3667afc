"""Counterfactual ranks: the rank of recommended items after one event is removed from the history.

The model scores the shortened history, so it needs nothing but scores. As in PRINCE (Ghazimatin et al. 2020,
arXiv:1911.08378), an event is a reason if the recommendation changes without it.
Shapes: L positions, N = n_items + 1 item rows, k recommended items, R shortened histories.
"""

import torch
from torch import Tensor

from attnrec.attribution import remove_events
from attnrec.attribution.removal import MAX_POSITIONS
from attnrec.dataset import Batch
from attnrec.models import Model

MAX_SCORES = 4_000_000
"""Scores (histories x items) in memory at a time."""


@torch.no_grad()
def ranks_without(model: Model, batch: Batch, items: Tensor, *, removed: Tensor, candidates: Tensor) -> Tensor:
    """Return the ranks of some items for one user, for several sets of removed events.

    The remaining events move together as in `attribution.remove_events`; no older event enters the window. Among equal
    scores the smaller item row ranks first, as in `ranking.top_k`.

    Args:
        model: in evaluation mode.
        batch: one user, (1, L).
        items: item rows, (k,).
        removed: True for removed events, (R, L) bool; a row of False is the full history.
        candidates: item rows that are ranked, (N,) bool; the same for every row of `removed`, so that a removed item
            does not become a candidate.

    Returns:
        Ranks from 1, (R, k) int64.
    """
    chunk_size = max(1, min(MAX_POSITIONS // removed.shape[1], MAX_SCORES // len(candidates)))
    return torch.cat([_ranks(model, batch, items, chunk, candidates) for chunk in removed.split(chunk_size)])


def _ranks(model: Model, batch: Batch, items: Tensor, removed: Tensor, candidates: Tensor) -> Tensor:
    rows = torch.zeros(len(removed), dtype=torch.long, device=removed.device)
    remaining = remove_events(batch.select(rows), removed).slice(0, len(rows))
    scores = model.score(remaining).float().masked_fill(~candidates, float("-inf"))
    item_rows = torch.arange(len(candidates), device=scores.device)
    ranks = []
    for item in items:  # one at a time: (R, N) and not (R, k, N) in memory
        item_score = scores[:, item, None]
        before = (scores > item_score) | ((scores == item_score) & (item_rows < item))
        ranks.append(1 + before.sum(1))
    return torch.stack(ranks, dim=1)
