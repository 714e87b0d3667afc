"""Softmax over the edges of each target, however many they are, and its logarithmic sum; gradients once only.

Shapes: E edges sorted by target, N targets, H heads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnrec.attention.graph.forms import Segments


def segment_softmax(energies: Tensor, graph: Segments) -> Tensor:
    """Energies (E, H) -> shares (E, H): >= 0, over the edges of a target they sum to 1."""
    return _SegmentSoftmax.apply(energies, graph)


def segment_logsumexp(energies: Tensor, graph: Segments) -> Tensor:
    """Energies (E, H) -> logarithms of what the softmax divides by, (N, H); 0 for targets without edges."""
    return _SegmentLogSumExp.apply(energies, graph)


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, energies: Tensor, graph: Segments) -> Tensor:
        """Only the shares are kept."""
        largest = graph.at_targets(graph.reduce(energies, "max"))
        shares = torch.sub(energies, largest, out=largest).exp_()
        shares /= graph.at_targets(graph.reduce(shares, "sum"))
        ctx.save_for_backward(shares)
        ctx.graph = graph
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_shares: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The Jacobian of one target's shares s is diag(s) - s s'."""
        (shares,) = ctx.saved_tensors
        d_energies = shares * d_shares
        mean = ctx.graph.at_targets(ctx.graph.reduce(d_energies, "sum"))
        return d_energies.sub_(mean.mul_(shares)), None


class _SegmentLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, energies: Tensor, graph: Segments) -> Tensor:
        """The largest energy is taken out, so that no exponential overflows."""
        largest = graph.reduce(energies, "max")
        sums = graph.reduce((energies - graph.at_targets(largest)).exp_(), "sum")
        found = torch.where(sums > 0, largest + sums.log(), 0)
        ctx.save_for_backward(energies, found)
        ctx.graph = graph
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_found: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The shares, times the gradient at their target."""
        energies, found = ctx.saved_tensors
        shares = (energies - ctx.graph.at_targets(found)).exp_()
        return shares.mul_(ctx.graph.at_targets(d_found)), None
