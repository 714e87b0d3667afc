"""Histories without some of their events, what they score, and the effect of each event: its leave-one-out.

That a user's own action is a reason as far as the recommendation changes when it is removed is the view of PRINCE
(Ghazimatin et al. 2020, arXiv:1911.08378), which looks for smallest sets of them. It needs nothing but scores.
Shapes: B users, L positions, R shortened histories, n items asked for.
"""

from dataclasses import fields, replace

import torch
from torch import Tensor

from attnrec.attribution.method import Method
from attnrec.dataset import Batch
from attnrec.models import Model

POSITIONS = 16_384
"""Of shortened histories that are scored at a time, so that memory does not grow with the number of removals."""

OF_EVENTS = ("items", "times", "targets", "weights", "events")
"""Columns of a batch that have one place per event."""


def remove_events(batch: Batch, places: Tensor) -> Batch:
    """The histories without the events at `places`; what is left closes up and keeps its order and its times.

    Args:
        batch: B users, padded on the right.
        places: True where an event is taken out, (B, L) bool; what it says of padding means nothing.

    Returns:
        A batch of the same width, padded on the right, all columns of events moved along and `lengths` less what was
        taken out. `older` events stay, and none of them moves into the window.
    """
    kept = batch.real & ~places
    order = (~kept).byte().sort(dim=1, stable=True).indices
    lengths = kept.sum(1)
    real = torch.arange(kept.shape[1], device=kept.device) < lengths[:, None]
    columns = {
        name: column.gather(1, order) * real for name in OF_EVENTS if (column := getattr(batch, name)) is not None
    }
    return replace(batch, lengths=lengths, **columns)


def chosen(batch: Batch, rows: Tensor) -> Batch:
    """The histories at `rows` (R,), which may repeat; a copy."""
    columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: column[rows] for name, column in columns.items() if column is not None})


@torch.no_grad()
def score_without_events(model: Model, batch: Batch, items: Tensor, *, rows: Tensor, removed: Tensor) -> Tensor:
    """Score shortened histories, in chunks of at most `POSITIONS` positions (and of one history at least).

    Args:
        model: in evaluation mode.
        batch: B users.
        items: item rows asked of each user, (B, n).
        rows: whose history each of the R is, (R,).
        removed: what is taken out of it, (R, L) bool.

    Returns:
        Scores (R, n).
    """
    n_kept = (batch.real[rows] & ~removed).sum(1)
    longest_first = n_kept.argsort(descending=True, stable=True)  # histories of like length together: little padding
    scores = torch.zeros(len(rows), items.shape[1], device=items.device)
    for some in longest_first.split(max(1, POSITIONS // max(1, removed.shape[1]))):
        if len(some):
            left = remove_events(chosen(batch, rows[some]), removed[some]).slice(0, len(some))
            scores[some] = model.score(left, items[rows[some]]).float()
    return scores


def leave_one_out(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """The effect of each event: the score with the full history less the score with that event taken out.

    Works for every model. Events that stand in for one another have small effects each, so effects do not add up to
    the score, unless the model is a plain sum.

    Args:
        model: in evaluation mode.
        batch: B users with histories of length L, padded on the right.
        items: item rows, (B, n).
        seed: nothing is drawn.

    Returns:
        (B, L, n), in score units, 0 at padding.
    """
    del seed
    with torch.no_grad():
        full = model.score(batch, items)
    rows, places = batch.real.nonzero(as_tuple=True)
    removed = places[:, None] == torch.arange(batch.items.shape[1], device=places.device)
    effects = full.new_zeros(*batch.items.shape, items.shape[1])
    effects[rows, places] = full[rows] - score_without_events(model, batch, items, rows=rows, removed=removed)
    return effects


LEAVE_ONE_OUT = Method(leave_one_out, source="Ghazimatin et al. 2020, arXiv:1911.08378")
