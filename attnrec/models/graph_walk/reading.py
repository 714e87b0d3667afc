"""Histories whose walks have a start; scores and contributions are read off tables.

Shapes: B users, L positions, n items asked for, N = n_items + 1 item rows, K neighbours, H heads, R rows of a table.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """Items among the neighbours of events.

    Attributes:
        rows: the events' rows of the table, (B, L, 1).
        places: where an item stands in its row, (B, L, n); any place where it does not.
        real: whether it does, (B, L, n) bool.
    """

    rows: Tensor
    places: Tensor
    real: Tensor


def find_places(table: Tensor, rows: Tensor, real: Tensor, items: Tensor) -> Found:
    """Look items up among the neighbours of events.

    Args:
        table: neighbours of each row, ascending, (R, K) int32.
        rows: of the events that count, in their order, (sum of real,).
        real: which do, (B, L) bool.
        items: asked for, (B, n).
    """
    row_of = torch.zeros(real.shape, dtype=torch.long, device=real.device).masked_scatter(real, rows)
    neighbours = table[row_of]
    wanted = items[:, None].to(neighbours.dtype).expand(-1, real.shape[1], -1).contiguous()
    places = torch.searchsorted(neighbours, wanted).clamp(max=neighbours.shape[2] - 1)
    return Found(row_of[..., None], places, (neighbours.gather(2, places) == wanted) & real[..., None])


@dataclass(frozen=True, eq=False)
class WalkReading:
    """Where the walks of B histories start, and the tables of where they can go.

    Attributes:
        history: item rows, (B, L).
        starts: shares of the events, times the number of items, (B, L, H).
        neighbours: of each item, ascending, N where there are fewer than K, (N, K) int32.
        shares: of the steps to them, (N, K, H).
        bias: what popularity adds, (N,).
    """

    history: Tensor
    starts: Tensor
    neighbours: Tensor
    shares: Tensor
    bias: Tensor

    @property
    def weights(self) -> Tensor:
        """See `base.Reading`."""
        return self.starts.sum(2) / len(self.neighbours[1:])

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.Reading`."""
        if items is not None:
            return self.contributions(items).sum(1) + self.bias[items]
        arriving = (self.shares[self.history] @ self.starts[..., None]).squeeze(-1)  # (B, L, K)
        ends = self.neighbours[self.history].long()
        totals = self.bias.new_zeros(len(self.history), len(self.neighbours) + 1)
        return totals.scatter_add_(1, ends.flatten(1), arriving.flatten(1))[:, :-1] + self.bias

    def contributions(self, items: Tensor) -> Tensor:
        """Chance to start at each event and to step to each item, times the number of items."""
        real = torch.ones_like(self.history, dtype=torch.bool)
        found = find_places(self.neighbours, self.history.flatten(), real, items)
        steps = self.shares[found.rows, found.places] * found.real[..., None]  # (B, L, n, H)
        return torch.einsum("blh,blnh->bln", self.starts, steps)
