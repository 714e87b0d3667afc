"""Softmax with exact zeros: sparsemax (arXiv:1602.02068) and 1.5-entmax (arXiv:1905.05702), exact by sorting.

Martins & Astudillo 2016 and Peters et al. 2019; gradients in closed form, differentiable once.
Both return max(0, s - t) ^ power with the threshold t for which the weights sum to 1.
Shapes: (..., K), weights over the last axis.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

OUTSIDE = -2.0  # scores are shifted to a maximum of 0 and t is at least -1, so this score gets weight 0


def sparsemax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Project `logits` onto the probability simplex: max(0, s - t); see `entmax15` for the arguments."""
    return _Sparse.apply(logits, allowed, 1)


def entmax15(logits: Tensor, allowed: Tensor) -> Tensor:
    """Compute 1.5-entmax, between softmax and sparsemax: max(0, s / 2 - t) ^ 2.

    Args:
        logits: (..., K).
        allowed: True = may get weight, broadcastable to (..., K).

    Returns:
        Weights, >= 0 and summing to 1, exactly 0 where not allowed; all zero in a row without an allowed key.
        At least float32, as softmax under autocast.
    """
    return _Sparse.apply(logits, allowed, 2)


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, allowed: Tensor, power: int) -> Tensor:
        """Compute the weights for scores s = logits / power."""
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32)) / power
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        scores = (scores - scores.amax(-1, keepdim=True)).masked_fill(~allowed, OUTSIDE)
        descending = scores.sort(dim=-1, descending=True).values
        n = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
        thresholds = _linear_thresholds(descending, n) if power == 1 else _square_thresholds(descending, n)
        n_positive = (thresholds <= descending).sum(-1, keepdim=True).clamp(min=1)
        weights = (scores - thresholds.gather(-1, n_positive - 1)).clamp(min=0) ** power * allowed
        ctx.save_for_backward(weights)
        ctx.power, ctx.dtype = power, logits.dtype
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The Jacobian is diag(r) - r r' / sum(r), with r = weights ^ (1 - 1 / power); r = 0 where the weight is 0."""
        (weights,) = ctx.saved_tensors
        rates = (weights > 0).to(weights.dtype) if ctx.power == 1 else weights.sqrt()
        mean = (gradient * rates).sum(-1, keepdim=True) / rates.sum(-1, keepdim=True).clamp(min=1)
        return (rates * (gradient - mean)).to(ctx.dtype), None, None


def _linear_thresholds(descending: Tensor, n: Tensor) -> Tensor:
    """Return, for every n, the t for which the n largest s - t sum to 1, (..., K)."""
    return (descending.cumsum(-1) - 1) / n


def _square_thresholds(descending: Tensor, n: Tensor) -> Tensor:
    """Return, for every n, the t for which the n largest (s - t) ^ 2 sum to 1, (..., K)."""
    mean = descending.cumsum(-1) / n
    spread = (descending**2).cumsum(-1) - n * mean**2
    return mean - ((1 - spread) / n).clamp(min=0).sqrt()
