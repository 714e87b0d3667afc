"""Negatives: items drawn once per call and shared by all its positions, so that their vectors are read once.

Draws are with replacement and follow torch's default generator.
Shapes: K negatives, N items (padding left out).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

POWER = 0.75  # popularity ** 3/4, best against 1 and 0 in Mikolov et al. 2013, arXiv:1310.4546, section 2.2


@dataclass(frozen=True, eq=False)
class Negatives:
    """What was drawn, and how likely it was.

    Attributes:
        rows: item rows from 1, (K,); the same item may come more than once.
        log_q: log of the probability with which one draw gives that item, (K,), in nats. A target is never
            drawn on purpose, so no loss needs the probability of one.
    """

    rows: Tensor
    log_q: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def draw_uniformly(n_items: int, n_negatives: int, *, device: torch.device | None = None) -> Negatives:
    """Draw each of N items with the same probability."""
    rows = torch.randint(n_items, (n_negatives,), device=device) + 1
    return Negatives(rows, torch.full((n_negatives,), -math.log(n_items), device=device))


def draw_by_popularity(counts: Tensor, n_negatives: int, *, power: float = POWER) -> Negatives:
    """Draw items in proportion to count ** power; items without events are never drawn.

    Args:
        counts: events of each item row from 1, (N,), not all 0.
        n_negatives: K.
        power: above 0; 1 is the plain count.
    """
    weights = counts.double() ** power  # in float32 the running sum over a large catalogue would lose the rare items
    drawn = torch.multinomial(weights, n_negatives, replacement=True)
    return Negatives(drawn + 1, (weights[drawn] / weights.sum()).log().float())
