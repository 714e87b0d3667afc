"""Causal convolution over a history: the output at a position sees that position and what came before.

Shapes: B users, L positions, I channels in, O channels out.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv(nn.Module):
    """A 1-D convolution that stands `(kernel_size - 1) * dilation` zeros in front of every history.

    Args:
        n_in, n_out: I and O.
        kernel_size: positions that an output sees; the last of them is its own.
        dilation: positions from one that it sees to the next.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.reach = (kernel_size - 1) * dilation
        self.conv = nn.Conv1d(n_in, n_out, kernel_size, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, I) -> (B, L, O)."""
        return self.conv(F.pad(x.mT, (self.reach, 0))).mT
