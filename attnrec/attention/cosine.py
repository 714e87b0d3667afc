"""Cosine attention with a learned scale per head: query-key normalisation (Henry et al. 2020, arXiv:2010.04245).

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.scaled_dot import attend
from attnrec.config import Config

SMALLEST_NORM = 1e-6  # a zero vector has cosine 0 to every key, and its gradient fits into float32


class Cosine(AttentionKernel):
    """softmax(g cos(q, k)) v, with one learned g per head: scores stay between -g and g, however large the states.

    g starts at log2(L^2 - L), as in the paper, with L = max_length.
    """

    paper = "Henry et al. 2020, arXiv:2010.04245"
    weights_kind = "normalised"

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        length = max(2, shape.max_length)
        self.scale = nn.Parameter(torch.full((shape.heads,), math.log2(length**2 - length)))

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
        """See `kernel.AttentionKernel`. Without weights and mask it runs torch's fused kernel on queries of norm g."""
        q = F.normalize(q, dim=-1, eps=SMALLEST_NORM) * self.scale[:, None, None]
        k = F.normalize(k, dim=-1, eps=SMALLEST_NORM)
        return attend(q, k, v, scale=1.0, allowed=allowed, causal=causal, need_weights=need_weights)
