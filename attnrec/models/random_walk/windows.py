"""What is asked of walks in training: items at positions of histories, whole ones or stretches of them.

A walk starts at one of the last W events. So of a long history every W positions are a stretch of their own, which
holds the W events before them, too: the work grows with L * W and not with L * L.
Shapes: B users, L positions, S stretches, W events of a window.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.dataset import Batch


@dataclass(frozen=True, eq=False)
class Stretch:
    """S parts of histories.

    Attributes:
        items: of the events, oldest first, (S, E).
        real: events that count, (S, E) bool.
        users: rows in the training part, (S,), where they are known.
        places: positions asked, among the E, (S, T).
        wanted: items asked for there, (S, T).
    """

    items: Tensor
    real: Tensor
    users: Tensor | None
    places: Tensor
    wanted: Tensor


def whole(batch: Batch, real: Tensor, wanted: Tensor) -> Stretch:
    """Whole histories, whose every position asks for an item, (B, L)."""
    places = torch.arange(batch.items.shape[1], device=batch.items.device).expand_as(batch.items)
    return Stretch(batch.items, real, batch.users, places, wanted)


def in_stretches(batch: Batch, wanted: Tensor, window: int) -> Stretch:
    """Every W positions, which ask for items (B, L), behind the W events before them; S = B * ceil(L / W)."""
    width = batch.items.shape[1]
    n = -(-width // window)
    fill = n * window - width

    def cut(column: Tensor) -> Tensor:
        return F.pad(column, (window, fill)).unfold(1, 2 * window, window).flatten(0, 1)

    return Stretch(
        items=cut(batch.items),
        real=cut(batch.real),
        users=None if batch.users is None else batch.users.repeat_interleave(n),
        places=torch.arange(window, 2 * window, device=wanted.device).expand(len(wanted) * n, -1),
        wanted=F.pad(wanted, (0, fill)).view(-1, window),
    )


def up_to(batch: Batch, places: Tensor, wanted: Tensor, window: int | None) -> Stretch:
    """The last W events (all: None) up to a position of each history, (B,), which asks for an item, (B,)."""
    width = batch.items.shape[1]
    window = width if window is None else min(window, width)
    at = places[:, None] - torch.arange(window - 1, -1, -1, device=places.device)
    return Stretch(
        items=batch.items.gather(1, at.clamp(min=0)),
        real=(at >= 0) & (places < batch.lengths)[:, None],
        users=batch.users,
        places=torch.full_like(places, window - 1)[:, None],
        wanted=wanted[:, None],
    )
