"""Split sequences into blocks of equal length, so that attention within a neighbourhood is one batched product.

Shapes: ... any leading axes, L positions, C channels, N = ceil(L / size) blocks of S = size positions.
"""

import torch.nn.functional as F
from torch import Tensor


def to_blocks(x: Tensor, size: int) -> Tensor:
    """(..., L, C) -> (..., N, S, C); the last block is padded with zeros."""
    n_blocks = -(-x.shape[-2] // size)
    return F.pad(x, (0, 0, 0, n_blocks * size - x.shape[-2])).unflatten(-2, (n_blocks, size))


def to_bands(x: Tensor, size: int, *, after: int) -> Tensor:
    """Return each block with its neighbours: one block before it and `after` blocks after it; zeros beyond the ends.

    (..., L, C) -> (..., N, W, C) with W = (2 + after) * size. The result is a view of the padded sequence.
    """
    n_padding = -x.shape[-2] % size
    return F.pad(x, (0, 0, size, n_padding + after * size)).unfold(-2, (2 + after) * size, size).mT
