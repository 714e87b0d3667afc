"""Causal convolution over a history: the output at a position depends on this position and earlier ones.

Shapes: B users, L positions, I channels in, O channels out.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv(nn.Module):
    """A 1-D convolution with `(kernel_size - 1) * dilation` zeros of padding on the left.

    Args:
        n_in, n_out: I and O.
        kernel_size: number of input positions per output; the last is the output's position.
        dilation: distance between these positions.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.left_padding = (kernel_size - 1) * dilation
        self.conv = nn.Conv1d(n_in, n_out, kernel_size, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, I) -> (B, L, O)."""
        return self.conv(F.pad(x.mT, (self.left_padding, 0))).mT
