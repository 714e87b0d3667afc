"""Cutting sequences into blocks of equal length, so that attention within and beside blocks is one batched product.

Shapes: ... any leading axes, L positions, C channels, N = ceil(L / size) blocks of S = size positions.
"""

import torch.nn.functional as F
from torch import Tensor


def to_blocks(x: Tensor, size: int) -> Tensor:
    """(..., L, C) -> (..., N, S, C); the last block is filled up with zeros."""
    n_blocks = -(-x.shape[-2] // size)
    return F.pad(x, (0, 0, 0, n_blocks * size - x.shape[-2])).unflatten(-2, (n_blocks, size))


def to_bands(x: Tensor, size: int, *, after: int) -> Tensor:
    """Each block with its neighbours: the one before and `after` ones behind; zeros where there is none.

    (..., L, C) -> (..., N, W, C) with W = (2 + after) * size: a view, nothing is copied but the padding.
    """
    filled = -x.shape[-2] % size
    return F.pad(x, (0, 0, size, filled + after * size)).unfold(-2, (2 + after) * size, size).mT
