"""Sparsemax attention: most keys get a weight of exactly 0 (Martins & Astudillo 2016, arXiv:1602.02068).

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from collections.abc import Callable

from torch import Tensor

from attnrec.attention.kernel import AttentionKernel, AttentionOutput
from attnrec.attention.scaled_dot import allowed_pairs
from attnrec.attention.sparse_softmax import sparsemax


class Sparsemax(AttentionKernel):
    """sparsemax(q k' / sqrt(C)) v: a key whose score is more than 1 below the best has weight 0 and no gradient.

    It sorts the keys of every query: K log K time, and (B, H, Q, K) memory with or without weights.
    """

    paper = "Martins & Astudillo 2016, arXiv:1602.02068"
    weights_kind = "normalised"
    normalise: Callable[[Tensor, Tensor], Tensor] = staticmethod(sparsemax)

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
        """See `kernel.AttentionKernel`."""
        logits = q @ k.mT * q.shape[-1] ** -0.5
        weights = self.normalise(logits, allowed_pairs(q, k, allowed=allowed, causal=causal))
        return AttentionOutput(weights.to(v.dtype) @ v, weights if need_weights else None)
