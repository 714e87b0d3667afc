"""Bilinear attention, the "general" score (Luong et al. 2015, arXiv:1508.04025, section 3.1).

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

import torch
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.scaled_dot import attend
from attnrec.config import Config


class Bilinear(AttentionKernel):
    """softmax(q W k') v, with one learned W (C, C) per head.

    W starts at I / sqrt(C), which is scaled dot-product attention; the paper has no scale and a random W.
    """

    paper = "Luong et al. 2015, arXiv:1508.04025"
    weights_kind = "normalised"

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        start = torch.eye(shape.channels) * shape.channels**-0.5
        self.weight = nn.Parameter(start.repeat(shape.heads, 1, 1))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        allowed: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
        times: Tensor | None = None,
    ) -> AttentionOutput:
        """See `kernel.AttentionKernel`. Without weights and mask it runs torch's fused kernel on the queries q W."""
        return attend(q @ self.weight, k, v, scale=1.0, allowed=allowed, causal=causal, need_weights=need_weights)
