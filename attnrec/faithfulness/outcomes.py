"""Score, rank and probability of the explained item when events are removed from the history.

Shapes: B users, R shortened histories of each, L positions, N = n_items + 1 item rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from attnrec.attribution import remove_events
from attnrec.attribution.removal import MAX_POSITIONS
from attnrec.faithfulness.top_items import TopItems
from attnrec.models import Model

MAX_SCORES = 2**24
"""Scores that are computed at a time; limits memory for a catalogue of any size."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Outcomes of the explained item for each shortened history; all of one shape.

    Attributes:
        scores: scores of the model.
        ranks: 1 + the number of recommendable items with a higher score; items with an equal score do not count.
        probabilities: softmax of the scores over the recommendable items.
    """

    scores: Tensor
    ranks: Tensor
    probabilities: Tensor

    def select(self, index: Tensor) -> "Outcomes":
        """Select flat outcomes by an index of any shape."""
        return Outcomes(*(getattr(self, field.name)[index] for field in fields(self)))

    def split(self, sizes: Sequence[int]) -> list["Outcomes"]:
        """Split along the last axis."""
        parts = (getattr(self, field.name).split(sizes, dim=-1) for field in fields(self))
        return [Outcomes(*part) for part in zip(*parts, strict=True)]


def outcomes_without(model: Model, top_items: TopItems, removed: Tensor) -> Outcomes:
    """Compute the outcomes of shortened histories; identical ones are scored once.

    Args:
        model: in evaluation mode.
        top_items: B users with their explained items.
        removed: events to remove, (B, R, L) bool, False at padding (see `remove_events`).

    Returns:
        Outcomes of shape (B, R).
    """
    n_users, n_each, _ = removed.shape
    users = np.arange(n_users, dtype=np.uint32).repeat(n_each)[:, None].view(np.uint8)
    keys = np.hstack([users, np.packbits(removed.flatten(0, 1).cpu().numpy(), axis=1)])
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    unique, device = torch.from_numpy(first), removed.device
    outcomes = _score(model, top_items, (unique // n_each).to(device), removed.flatten(0, 1)[unique.to(device)])
    return outcomes.select(torch.from_numpy(inverse.reshape(n_users, n_each)).to(device))


@torch.no_grad()
def _score(model: Model, top_items: TopItems, rows: Tensor, removed: Tensor) -> Outcomes:
    """Outcomes (R,) of the histories `rows` (R,) without events (R, L), in chunks of similar length."""
    n_kept = (top_items.batch.real[rows] & ~removed).sum(1)
    values = torch.zeros(3, len(rows), dtype=torch.float64, device=rows.device)
    size = max(1, min(MAX_POSITIONS // removed.shape[1], MAX_SCORES // top_items.recommendable.shape[1]))
    for chunk in n_kept.argsort(descending=True, stable=True).split(size):
        shortened = remove_events(top_items.batch.select(rows[chunk]), removed[chunk]).slice(0, len(chunk))
        scores = model.score(shortened).float().masked_fill(~top_items.recommendable[rows[chunk]], float("-inf"))
        explained = scores.gather(1, top_items.items[rows[chunk], None])
        values[0, chunk] = explained.squeeze(1).double()
        values[1, chunk] = 1 + (scores > explained).sum(1).double()
        values[2, chunk] = (explained.squeeze(1) - scores.logsumexp(1)).exp().double()
    return Outcomes(*values)
