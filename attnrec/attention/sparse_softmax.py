"""Softmax with exact zeros: sparsemax (arXiv:1602.02068) and 1.5-entmax (arXiv:1905.05702), exact by sorting.

Martins & Astudillo 2016 and Peters et al. 2019; gradients in closed form, once only.
Both give max(0, s - t) ^ power with the one threshold t at which the shares sum to 1.
Shapes: (..., K), shares over the last axis.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

OUTSIDE = -2.0  # the largest score is moved to 0; t is never under -1, so what lies here has no share


def sparsemax(logits: Tensor, allowed: Tensor) -> Tensor:
    """The nearest point to `logits` among all shares: max(0, s - t); see `entmax15` for the arguments."""
    return _Sparse.apply(logits, allowed, 1)


def entmax15(logits: Tensor, allowed: Tensor) -> Tensor:
    """Between softmax and sparsemax: max(0, s / 2 - t) ^ 2.

    Args:
        logits: (..., K).
        allowed: True = may have a share, broadcastable to (..., K).

    Returns:
        Shares, >= 0 and summing to 1, exactly 0 where not allowed; a row with nothing allowed is all zero.
        At least float32, as softmax under autocast.
    """
    return _Sparse.apply(logits, allowed, 2)


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, allowed: Tensor, power: int) -> Tensor:
        """Shares of scores s = logits / power."""
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32)) / power
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        scores = (scores - scores.amax(-1, keepdim=True)).masked_fill(~allowed, OUTSIDE)
        ranked = scores.sort(dim=-1, descending=True).values
        n = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
        thresholds = _linear_thresholds(ranked, n) if power == 1 else _square_thresholds(ranked, n)
        n_shares = (thresholds <= ranked).sum(-1, keepdim=True).clamp(min=1)
        shares = (scores - thresholds.gather(-1, n_shares - 1)).clamp(min=0) ** power * allowed
        ctx.save_for_backward(shares)
        ctx.power, ctx.dtype = power, logits.dtype
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The Jacobian is diag(r) - r r' / sum(r), with r = shares ^ (1 - 1 / power); r = 0 where the share is 0."""
        (shares,) = ctx.saved_tensors
        rates = (shares > 0).to(shares.dtype) if ctx.power == 1 else shares.sqrt()
        mean = (gradient * rates).sum(-1, keepdim=True) / rates.sum(-1, keepdim=True).clamp(min=1)
        return (rates * (gradient - mean)).to(ctx.dtype), None, None


def _linear_thresholds(ranked: Tensor, n: Tensor) -> Tensor:
    """t with which the n largest s - t sum to 1, for every n: (..., K)."""
    return (ranked.cumsum(-1) - 1) / n


def _square_thresholds(ranked: Tensor, n: Tensor) -> Tensor:
    """t with which the n largest (s - t) ^ 2 sum to 1, for every n: (..., K)"""
    mean = ranked.cumsum(-1) / n
    spread = (ranked**2).cumsum(-1) - n * mean**2
    return mean - ((1 - spread) / n).clamp(min=0).sqrt()
