"""What becomes of the explained item when events are taken out of the history: its score, rank and probability.

Shapes: B users, R shortened histories of each, L positions, N = n_items + 1 item rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from attnrec.attribution import remove_events
from attnrec.attribution.removal import POSITIONS, chosen
from attnrec.faithfulness.top_items import Explained
from attnrec.models import Model

SCORES = 2**24
"""That are made at a time, so that memory does not grow with the catalogue."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Of the explained item, with each shortened history; all of one shape.

    Attributes:
        scores: as the model gives them.
        ranks: 1 + the number of recommendable items with a higher score; equal ones are not above it.
        probabilities: softmax of the scores over the recommendable items.
    """

    scores: Tensor
    ranks: Tensor
    probabilities: Tensor

    def of(self, index: Tensor) -> "Outcomes":
        """Those that an index of any shape names, where these are flat."""
        return Outcomes(*(getattr(self, field.name)[index] for field in fields(self)))

    def split(self, sizes: Sequence[int]) -> list["Outcomes"]:
        """Parts of the last axis."""
        parts = (getattr(self, field.name).split(sizes, dim=-1) for field in fields(self))
        return [Outcomes(*part) for part in zip(*parts, strict=True)]


def outcomes_without(model: Model, explained: Explained, removed: Tensor) -> Outcomes:
    """Score every shortened history once, however often it is asked for.

    Args:
        model: in evaluation mode.
        explained: B users.
        removed: what is taken out, (B, R, L) bool, False at padding; what is left closes up (see `without`).

    Returns:
        Outcomes of shape (B, R).
    """
    n_users, n_each, _ = removed.shape
    users = np.arange(n_users, dtype=np.uint32).repeat(n_each)[:, None].view(np.uint8)
    keys = np.hstack([users, np.packbits(removed.flatten(0, 1).cpu().numpy(), axis=1)])
    _, first, again = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    once, device = torch.from_numpy(first), removed.device
    scored = _scored(model, explained, (once // n_each).to(device), removed.flatten(0, 1)[once.to(device)])
    return scored.of(torch.from_numpy(again.reshape(n_users, n_each)).to(device))


@torch.no_grad()
def _scored(model: Model, explained: Explained, rows: Tensor, removed: Tensor) -> Outcomes:
    """Outcomes (R,) of histories `rows` (R,) without events (R, L), in chunks, like lengths together."""
    n_kept = (explained.batch.real[rows] & ~removed).sum(1)
    found = torch.zeros(3, len(rows), dtype=torch.float64, device=rows.device)
    size = max(1, min(POSITIONS // removed.shape[1], SCORES // explained.recommendable.shape[1]))
    for some in n_kept.argsort(descending=True, stable=True).split(size):
        left = remove_events(chosen(explained.batch, rows[some]), removed[some]).slice(0, len(some))
        scores = model.score(left).float().masked_fill(~explained.recommendable[rows[some]], float("-inf"))
        own = scores.gather(1, explained.items[rows[some], None])
        found[0, some] = own.squeeze(1).double()
        found[1, some] = 1 + (scores > own).sum(1).double()
        found[2, some] = (own.squeeze(1) - scores.logsumexp(1)).exp().double()
    return Outcomes(*found)
