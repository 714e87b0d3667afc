"""Which events stand for the distinct items of a history: models of sets count each item once.

Shapes: B users, L positions.
"""

import torch
from torch import Tensor


def last_occurrences(items: Tensor) -> Tensor:
    """True where an item of the history stands for the last time, False at padding: (B, L) -> (B, L) bool."""
    ordered, places = items.sort(dim=1, stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    return torch.zeros_like(last).scatter(1, places, last) & (items > 0)
