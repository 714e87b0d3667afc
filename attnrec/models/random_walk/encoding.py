"""Histories whose walks have a start; scores and contributions are read off tables of their steps.

Shapes: B users, L positions, n items asked for, N = n_items + 1 item rows, K neighbours, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def look_up(neighbours: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Where items stand among the neighbours of events.

    Args:
        neighbours: of the events' items, ascending, (B, L, K) int32.
        items: asked for, (B, n).

    Returns:
        Places, any place where an item is no neighbour, (B, L, n), and whether it is one, (B, L, n) bool.
    """
    wanted = items[:, None].to(neighbours.dtype).expand(-1, neighbours.shape[1], -1).contiguous()
    places = torch.searchsorted(neighbours, wanted).clamp(max=neighbours.shape[2] - 1)
    return places, neighbours.gather(2, places) == wanted


@dataclass(frozen=True, eq=False)
class WalkEncoding:
    """Where the walks of B histories start, and where they can go from there.

    Attributes:
        history: item rows, (B, L).
        starts: shares of the events, times the number of items, (B, L, H), or (B, L, H + 1) where the last are of walks
            that end where they start.
        neighbours: of the events' items, ascending, N where there are fewer than K, (B, L, K) int32.
        steps: shares of the steps to them, (B, L, K, H).
        bias: what popularity adds, (N,).
    """

    history: Tensor
    starts: Tensor
    neighbours: Tensor
    steps: Tensor
    bias: Tensor

    @property
    def weights(self) -> Tensor:
        """See `base.EncodedHistories`."""
        return self.starts.sum(2) / len(self.bias[1:])

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        if items is not None:
            return self.contributions(items).sum(1) + self.bias[items]
        moving, staying = self._starts()
        arriving = (self.steps @ moving[..., None]).squeeze(-1)  # (B, L, K)
        totals = self.bias.new_zeros(len(self.history), len(self.bias) + 1)
        totals.scatter_add_(1, self.neighbours.long().flatten(1), arriving.flatten(1))
        return totals.scatter_add_(1, self.history, staying)[:, :-1] + self.bias

    def contributions(self, items: Tensor) -> Tensor:
        """Chance to start at each event and to end at each item, times the number of items."""
        moving, staying = self._starts()
        places, real = look_up(self.neighbours, items)
        steps = self.steps.gather(2, places[..., None].expand(-1, -1, -1, self.steps.shape[3])) * real[..., None]
        here = self.history[..., None] == items[:, None]
        return torch.einsum("blh,blnh->bln", moving, steps) + staying[..., None] * here

    def _starts(self) -> tuple[Tensor, Tensor]:
        """Of walks that move, (B, L, H), and of those that stay, (B, L)."""
        heads = self.steps.shape[3]
        return self.starts[..., :heads], self.starts[..., heads:].sum(2)
