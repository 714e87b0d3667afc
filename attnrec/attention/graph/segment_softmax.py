"""Softmax and log-sum-exp over the edges of each target, differentiable once.

Shapes: E edges sorted by target, N targets, H heads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnrec.attention.graph.edges import SortedEdges


def segment_softmax(logits: Tensor, graph: SortedEdges) -> Tensor:
    """Return the softmax of logits (E, H) over the edges of each target, (E, H)."""
    return _SegmentSoftmax.apply(logits, graph)


def segment_logsumexp(logits: Tensor, graph: SortedEdges) -> Tensor:
    """Return the log-sum-exp of logits (E, H) over the edges of each target, (N, H); 0 for a target without edges."""
    return _SegmentLogSumExp.apply(logits, graph)


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, graph: SortedEdges) -> Tensor:
        """Save the weights alone for the backward pass."""
        largest = graph.to_edges(graph.reduce(logits, "max"))
        weights = torch.sub(logits, largest, out=largest).exp_()
        weights /= graph.to_edges(graph.reduce(weights, "sum"))
        ctx.save_for_backward(weights)
        ctx.graph = graph
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_weights: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The Jacobian for the weights w of one target is diag(w) - w w'."""
        (weights,) = ctx.saved_tensors
        d_logits = weights * d_weights
        mean = ctx.graph.to_edges(ctx.graph.reduce(d_logits, "sum"))
        return d_logits.sub_(mean.mul_(weights)), None


class _SegmentLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, graph: SortedEdges) -> Tensor:
        """Subtract the largest logit first, so that no exponential overflows."""
        largest = graph.reduce(logits, "max")
        sums = graph.reduce((logits - graph.to_edges(largest)).exp_(), "sum")
        log_sums = torch.where(sums > 0, largest + sums.log(), 0)
        ctx.save_for_backward(logits, log_sums)
        ctx.graph = graph
        return log_sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_log_sums: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The softmax weights times the gradient at their target."""
        logits, log_sums = ctx.saved_tensors
        weights = (logits - ctx.graph.to_edges(log_sums)).exp_()
        return weights.mul_(ctx.graph.to_edges(d_log_sums)), None
