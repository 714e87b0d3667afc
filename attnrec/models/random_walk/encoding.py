"""Encoded histories of a random walk: scores and contributions from start probabilities and step probabilities.

Shapes: B users, L positions, n requested items, N = n_items + 1 item rows, K neighbours, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def find_neighbours(neighbours: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Look items up among the neighbours of each event.

    Args:
        neighbours: neighbours of the events' items, ascending, (B, L, K) int32.
        items: (B, n).

    Returns:
        Index of each item among the K neighbours, (B, L, n), arbitrary where it is not one of them; and whether it is,
        (B, L, n) bool.
    """
    keys = items[:, None].to(neighbours.dtype).expand(-1, neighbours.shape[1], -1).contiguous()
    indices = torch.searchsorted(neighbours, keys).clamp(max=neighbours.shape[2] - 1)
    return indices, neighbours.gather(2, indices) == keys


@dataclass(frozen=True, eq=False)
class WalkEncoding:
    """Start probabilities of B histories, and the step probabilities from their events.

    Attributes:
        history: item rows, (B, L).
        starts: start probability of each event times the number of items, (B, L, H), or (B, L, H + 1) where the last
            head is of walks that stay at their first item.
        neighbours: neighbours of the events' items, ascending and padded with N, (B, L, K) int32.
        steps: step probabilities to them, (B, L, K, H).
        bias: score by popularity, (N,).
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
        moving, staying = self._split_starts()
        arriving = (self.steps @ moving[..., None]).squeeze(-1)  # (B, L, K)
        totals = self.bias.new_zeros(len(self.history), len(self.bias) + 1)
        totals.scatter_add_(1, self.neighbours.long().flatten(1), arriving.flatten(1))
        return totals.scatter_add_(1, self.history, staying)[:, :-1] + self.bias

    def contributions(self, items: Tensor) -> Tensor:
        """Return P(start at the event, end at the item) times the number of items, (B, L, n)."""
        moving, staying = self._split_starts()
        indices, is_neighbour = find_neighbours(self.neighbours, items)
        steps = self.steps.gather(2, indices[..., None].expand(-1, -1, -1, self.steps.shape[3]))
        is_same_item = self.history[..., None] == items[:, None]
        return (
            torch.einsum("blh,blnh->bln", moving, steps * is_neighbour[..., None]) + staying[..., None] * is_same_item
        )

    def _split_starts(self) -> tuple[Tensor, Tensor]:
        """Split into walks that move, (B, L, H), and walks that stay, (B, L)."""
        heads = self.steps.shape[3]
        return self.starts[..., :heads], self.starts[..., heads:].sum(2)
