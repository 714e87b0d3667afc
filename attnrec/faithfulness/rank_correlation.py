"""Rank correlation of two attributions of the same events: Kendall's tau-b (Kendall 1945, doi:10.1093/biomet/33.3.239).

Shapes: B users, L positions.
"""

import torch
from torch import Tensor


def kendall_tau(x: Tensor, y: Tensor, *, real: Tensor) -> Tensor:
    """Compute Kendall's tau-b: concordant minus discordant pairs, divided by the geometric mean of untied pairs.

    Args:
        x, y: attributions, (B, L); only their order matters, and equal values are ties.
        real: True at events, (B, L) bool.

    Returns:
        (B,) float64 from -1 to 1; NaN if all values of x or of y are tied, which includes fewer than 2 events.
    """
    pairs = real[:, :, None] & real[:, None]
    x, y = _signs(x, pairs), _signs(y, pairs)
    untied = (x != 0).sum((1, 2)).double() * (y != 0).sum((1, 2)).double()
    return (x * y).sum((1, 2)).double() / untied.sqrt()


def _signs(values: Tensor, pairs: Tensor) -> Tensor:
    """Sign of the difference of each pair of events, (B, L, L) of -1, 0, 1; every pair occurs twice."""
    first, second = values[:, :, None], values[:, None]
    return ((first > second).to(torch.int8) - (first < second).to(torch.int8)) * pairs
