"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1).

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.attention.kernel import AttentionKernel, AttentionOutput
from attnrec.attention.masks import attend_where


class ScaledDot(AttentionKernel):
    """softmax(q k' / sqrt(C)) v. A query without an allowed key gets zeros, not NaN."""

    paper = "Vaswani et al. 2017, arXiv:1706.03762"
    weights_kind = "normalised"
    supports_single_query = True

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
        """See `kernel.AttentionKernel`. Without weights it runs torch's fused attention."""
        scale = q.shape[-1] ** -0.5
        return attend(q, k, v, scale=scale, allowed=allowed, causal=causal, need_weights=need_weights)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, allowed: Tensor | None, causal: bool, need_weights: bool
) -> AttentionOutput:
    """Compute softmax(scale * q k') v, with torch's fused attention if no weights are needed."""
    if not need_weights and allowed is None:
        return AttentionOutput(F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale), None)
    pairs = allowed_pairs(q, k, allowed=allowed, causal=causal)
    if not need_weights:
        return AttentionOutput(attend_where(q, k, v, pairs, scale=scale), None)
    weights = masked_softmax(q @ k.mT * scale, pairs)
    return AttentionOutput(weights @ v, weights)


def allowed_pairs(q: Tensor, k: Tensor, *, allowed: Tensor | None, causal: bool) -> Tensor:
    """Combine `allowed` and `causal` into one mask, broadcastable to (B, H, Q, K)."""
    if not causal:
        return torch.ones(1, dtype=torch.bool, device=q.device) if allowed is None else allowed
    past = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    return past if allowed is None else allowed & past


def masked_softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Compute the softmax over allowed entries of the last axis; zeros in a row without an allowed entry."""
    masked = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
    return torch.softmax(masked, dim=-1) * allowed
