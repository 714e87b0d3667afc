"""Remove events from histories, score the shortened histories, and compute the effect of each event (leave-one-out).

PRINCE (Ghazimatin et al. 2020, arXiv:1911.08378) explains a recommendation by the user's own actions without which it
changes, and searches for the smallest such sets. Removal works for every model, since it uses scores alone.
Shapes: B users, L positions, R shortened histories, n requested items.
"""

from dataclasses import replace

import torch
from torch import Tensor

from attnrec.attribution.method import Method
from attnrec.dataset import Batch
from attnrec.models import Model

MAX_POSITIONS = 16_384
"""Positions of shortened histories that are scored at a time; limits memory for any number of removals."""

EVENT_COLUMNS = ("items", "times", "targets", "weights", "events")
"""Columns of a batch with one value per event."""


def remove_events(batch: Batch, removed: Tensor) -> Batch:
    """Return the histories without some events; the other events keep their order and times, and close the gaps.

    Args:
        batch: B users, padded on the right.
        removed: True at events to remove, (B, L) bool; ignored at padding.

    Returns:
        A batch of the same width, padded on the right, with all columns of events moved and `lengths` reduced.
        Memory events do not change, and none of them moves into the window.
    """
    kept = batch.real & ~removed
    order = (~kept).byte().sort(dim=1, stable=True).indices
    lengths = kept.sum(1)
    real = torch.arange(kept.shape[1], device=kept.device) < lengths[:, None]
    columns = {
        name: column.gather(1, order) * real for name in EVENT_COLUMNS if (column := getattr(batch, name)) is not None
    }
    return replace(batch, lengths=lengths, **columns)


@torch.no_grad()
def score_without_events(model: Model, batch: Batch, items: Tensor, *, rows: Tensor, removed: Tensor) -> Tensor:
    """Score shortened histories, in chunks of at most `MAX_POSITIONS` positions (and at least one history).

    Args:
        model: in evaluation mode.
        batch: B users.
        items: item rows to score for each user, (B, n).
        rows: the user of each shortened history, (R,).
        removed: the events removed from it, (R, L) bool.

    Returns:
        Scores (R, n).
    """
    n_kept = (batch.real[rows] & ~removed).sum(1)
    longest_first = n_kept.argsort(descending=True, stable=True)  # histories of similar length together: less padding
    scores = torch.zeros(len(rows), items.shape[1], device=items.device)
    for chunk in longest_first.split(max(1, MAX_POSITIONS // max(1, removed.shape[1]))):
        if len(chunk):
            shortened = remove_events(batch.select(rows[chunk]), removed[chunk]).slice(0, len(chunk))
            scores[chunk] = model.score(shortened, items[rows[chunk]]).float()
    return scores


def leave_one_out(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Compute the effect of each event: the score of the full history minus the score without the event.

    Works for every model. Redundant events have small effects each, so effects do not add up to the score, unless the
    model is a plain sum.

    Args:
        model: in evaluation mode.
        batch: B users with histories of length L, padded on the right.
        items: item rows, (B, n).
        seed: not used.

    Returns:
        (B, L, n), in score units, 0 at padding.
    """
    del seed
    with torch.no_grad():
        full = model.score(batch, items)
    rows, positions = batch.real.nonzero(as_tuple=True)
    removed = positions[:, None] == torch.arange(batch.items.shape[1], device=positions.device)
    effects = full.new_zeros(*batch.items.shape, items.shape[1])
    effects[rows, positions] = full[rows] - score_without_events(model, batch, items, rows=rows, removed=removed)
    return effects


LEAVE_ONE_OUT = Method(leave_one_out, source="Ghazimatin et al. 2020, arXiv:1911.08378")
