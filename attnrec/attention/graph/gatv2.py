"""GATv2 (Brody, Alon & Yahav 2022, arXiv:2105.14491), with edge features.

e = a' leaky_relu(W_source x_j + W_target x_i + W_edge f_ij): the nonlinearity is inside the product, so each edge has
H x C hidden units. They exist for one block of edges at a time and are recomputed in the backward pass.
Shapes: S sources, N targets, E edges, M edges of a block, F edge features, H heads, C channels per head, D = H * C.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnrec.attention.graph.additive import AdditiveGraphLayer
from attnrec.attention.graph.blocks import edge_blocks, head_indicator, rows_per_block
from attnrec.attention.graph.edges import SortedEdges
from attnrec.attention.graph.layer import GraphSettings, GraphShape


class GATv2(AdditiveGraphLayer):
    """Attention logits from a hidden layer per edge and one vector `a` per head, (H, C)."""

    paper = "Brody, Alon & Yahav 2022, arXiv:2105.14491"
    biased_projections = True

    def __init__(self, shape: GraphShape, settings: GraphSettings | None = None) -> None:
        super().__init__(shape, settings)
        self.attention = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape.heads, shape.channels)))

    def logits(self, x_source: Tensor, x_target: Tensor, values: Tensor, graph: SortedEdges) -> Tensor:
        """See `AdditiveGraphLayer`."""
        if self.project_target is not None:
            targets = self.project_target(x_target)
        else:
            targets = values if x_target is x_source else self.project_source(x_target)
        features = None if graph.edge_features is None else graph.edge_features.to(values.dtype)
        edge_weight = None if self.project_edges is None else self.project_edges.weight
        slope = self.settings.negative_slope
        return _Logits.apply(values, targets, features, edge_weight, self.attention, slope, graph)


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sources: Tensor,
        targets: Tensor,
        features: Tensor | None,
        edge_weight: Tensor | None,
        attention: Tensor,
        slope: float,
        graph: SortedEdges,
    ) -> Tensor:
        """Return logits (E, H) of projected sources (S, D) and targets (N, D), features (E, F), their weight (D, F)."""
        ctx.save_for_backward(sources, targets, features, edge_weight, attention)
        ctx.slope, ctx.graph = slope, graph
        logits = sources.new_empty(len(graph.sources), len(attention))
        by_head = (head_indicator(len(attention), sources) * attention.flatten()).mT.contiguous()
        for edges, source, target in edge_blocks(sources, targets, graph):
            hidden = _add_in_place(source, target, features, edge_weight, edges)
            torch.mm(F.leaky_relu_(hidden, slope), by_head, out=logits[edges])
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logits: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """With leaky_relu(z) = leaky_relu'(z) z, the sums of d_logit leaky_relu'(z) over edges give all gradients."""
        sources, targets, features, edge_weight, attention = ctx.saved_tensors
        graph: SortedEdges = ctx.graph
        sums = [torch.zeros_like(x) for x in (sources, targets)]
        edge_sums = None if edge_weight is None else torch.zeros_like(edge_weight)
        d_features = torch.empty_like(features) if ctx.needs_input_grad[2] else None
        heads, a = head_indicator(len(attention), sources), attention.flatten()
        for edges, source, target in edge_blocks(sources, targets, graph):
            hidden = _add_in_place(source, target, features, edge_weight, edges)
            d_hidden = torch.mm(d_logits[edges], heads, out=target)
            torch.ops.aten.leaky_relu_backward.grad_input(d_hidden, hidden, ctx.slope, False, grad_input=hidden)
            sums[0].index_add_(0, graph.sources[edges], hidden)
            sums[1].index_add_(0, graph.targets[edges], hidden)
            if edge_sums is not None:
                edge_sums.addmm_(hidden.mT, features[edges])
            if d_features is not None and edge_weight is not None:
                torch.mm(hidden, a[:, None] * edge_weight, out=d_features[edges])
        d_attention = _column_products(sums[0], sources) + _column_products(sums[1], targets)
        if edge_sums is not None and edge_weight is not None:
            d_attention += (edge_sums * edge_weight).sum(1)
            edge_sums *= a[:, None]
        return sums[0].mul_(a), sums[1].mul_(a), d_features, edge_sums, d_attention.view_as(attention), None, None


def _add_in_place(
    source: Tensor, target: Tensor, features: Tensor | None, edge_weight: Tensor | None, edges: slice
) -> Tensor:
    """Return the input of the leaky ReLU, (M, D), written over `source`."""
    source += target
    return source if features is None or edge_weight is None else source.addmm_(features[edges], edge_weight.mT)


def _column_products(x: Tensor, y: Tensor) -> Tensor:
    """Sum x * y over rows, (., D), (., D) -> (D,), without the whole product in memory."""
    step = rows_per_block(x)
    parts = [(a * b).sum(0) for a, b in zip(x.split(step), y.split(step), strict=True)]
    return torch.stack(parts).sum(0)
