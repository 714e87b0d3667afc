"""Weighted sums of sources over the edges of each target, without a tensor of edges x channels.

The forward pass gathers, multiplies and adds in one pass over the edges (torch's embedding_bag); the backward pass
goes through the edges in blocks. Differentiable once.
Shapes: E edges sorted by target, M edges of a block, S sources, N targets, H heads, C channels per head, D = H * C.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnrec.attention.graph.blocks import edge_blocks, head_indicator
from attnrec.attention.graph.edges import SortedEdges


def weighted_sum(values: Tensor, weights: Tensor, graph: SortedEdges) -> Tensor:
    """Sum the source values (S, D), weighted by (E, H), over the edges of each target: (N, D).

    A target without edges gets zeros. The graph's sources must be valid rows of `values`; this is not checked here.
    """
    return _WeightedSum.apply(values, weights, graph)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, graph: SortedEdges) -> Tensor:
        """Sum head by head, because embedding_bag takes one weight per edge and contiguous arguments."""
        ctx.save_for_backward(values, weights)
        ctx.graph = graph
        heads = weights.shape[1]
        sums = values.new_empty(graph.n_targets, values.shape[1])
        for head in range(heads):
            sums.unflatten(1, (heads, -1))[:, head] = F.embedding_bag(
                graph.sources,
                values.unflatten(1, (heads, -1))[:, head].contiguous(),
                graph.offsets,
                mode="sum",
                per_sample_weights=weights[:, head].contiguous(),
                include_last_offset=True,
            )
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_sums: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, weights = ctx.saved_tensors
        graph: SortedEdges = ctx.graph
        d_values, d_weights = torch.zeros_like(values), torch.empty_like(weights)
        heads = head_indicator(weights.shape[1], values)
        for edges, source, d_target in edge_blocks(values, d_sums, graph):
            torch.mm(source.mul_(d_target), heads.mT, out=d_weights[edges])
            d_source = torch.mm(weights[edges], heads, out=source).mul_(d_target)
            d_values.index_add_(0, graph.sources[edges], d_source)
        return d_values, d_weights, None
