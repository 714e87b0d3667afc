"""Inputs of training: histories with target items at some positions, whole or cut into windows.

With a window of W events, walks start at one of the last W events. A long history is then cut into pieces of W target
positions, each together with the W events before it, so that the work grows with L * W instead of L * L.
Shapes: B users, L positions, S pieces, E events per piece, T target positions per piece, W events of a window.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.dataset import Batch


@dataclass(frozen=True, eq=False)
class HistoryWindow:
    """S histories or pieces of histories.

    Attributes:
        items: item rows of the events, oldest first, (S, E).
        real: events that count, (S, E) bool.
        users: rows in the training part, (S,), or None if unknown.
        positions: target positions among the E events, (S, T).
        targets: target items at these positions, (S, T).
    """

    items: Tensor
    real: Tensor
    users: Tensor | None
    positions: Tensor
    targets: Tensor


def whole_histories(batch: Batch, real: Tensor, targets: Tensor) -> HistoryWindow:
    """Return whole histories with a target at every position, (B, L)."""
    positions = torch.arange(batch.items.shape[1], device=batch.items.device).expand_as(batch.items)
    return HistoryWindow(batch.items, real, batch.users, positions, targets)


def split_histories(batch: Batch, targets: Tensor, window: int) -> HistoryWindow:
    """Cut histories with targets (B, L) into pieces of W target positions; S = B * ceil(L / W), E = 2 * W."""
    width = batch.items.shape[1]
    n = -(-width // window)
    fill = n * window - width

    def cut(column: Tensor) -> Tensor:
        return F.pad(column, (window, fill)).unfold(1, 2 * window, window).flatten(0, 1)

    return HistoryWindow(
        items=cut(batch.items),
        real=cut(batch.real),
        users=None if batch.users is None else batch.users.repeat_interleave(n),
        positions=torch.arange(window, 2 * window, device=targets.device).expand(len(targets) * n, -1),
        targets=F.pad(targets, (0, fill)).view(-1, window),
    )


def histories_until(batch: Batch, positions: Tensor, targets: Tensor, window: int | None) -> HistoryWindow:
    """Return the last W events (None: all) up to one position of each history, (B,), with one target each, (B,)."""
    width = batch.items.shape[1]
    window = width if window is None else min(window, width)
    source = positions[:, None] - torch.arange(window - 1, -1, -1, device=positions.device)
    return HistoryWindow(
        items=batch.items.gather(1, source.clamp(min=0)),
        real=(source >= 0) & (positions < batch.lengths)[:, None],
        users=batch.users,
        positions=torch.full_like(positions, window - 1)[:, None],
        targets=targets[:, None],
    )
