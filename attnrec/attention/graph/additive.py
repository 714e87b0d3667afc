"""The common part of GAT and GATv2: projections, softmax over each target's edges, weighted sum of the sources.

Shapes: S sources, N targets, E edges, F edge features, H heads, C channels per head.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnrec.attention.graph.edges import SortedEdges
from attnrec.attention.graph.layer import GraphLayer, GraphSettings, GraphShape
from attnrec.attention.graph.segment_softmax import segment_softmax
from attnrec.attention.graph.weighted_sum import weighted_sum
from attnrec.layers import Dropout, Linear


class AdditiveGraphLayer(GraphLayer):
    """A graph layer with additive attention, without a tensor of edges x heads x channels.

    The weights are dropped in one draw for all edges, so the draw does not depend on the size of the blocks.

    Attributes:
        biased_projections: whether `bias` also gives the projections a bias.
    """

    biased_projections: ClassVar[bool]

    def __init__(self, shape: GraphShape, settings: GraphSettings | None = None) -> None:
        super().__init__(shape, settings)
        width, bias = shape.heads * shape.channels, self.biased_projections and self.settings.bias
        self.project_source = Linear(shape.source_dim, width, bias=bias)
        self.project_target = None if self.settings.share_weights else Linear(shape.target_dim, width, bias=bias)
        self.project_edges = Linear(shape.edge_dim, width, bias=False) if shape.edge_dim else None
        self.residual = Linear(shape.target_dim, self.out_dim, bias=False) if self.settings.residual else None
        self.bias = nn.Parameter(torch.zeros(self.out_dim)) if self.settings.bias else None
        self.dropout = Dropout(self.settings.dropout)
        for name, parameter in self.named_parameters():
            (nn.init.zeros_ if name.endswith("bias") else nn.init.xavier_uniform_)(parameter)

    @abstractmethod
    def logits(self, x_source: Tensor, x_target: Tensor, values: Tensor, graph: SortedEdges) -> Tensor:
        """Compute the attention logits, the input of the softmax.

        Args:
            x_source: (S, source_dim).
            x_target: (N, target_dim).
            values: the projected sources, (S, H * C).
            graph: E edges.

        Returns:
            (E, H).
        """

    def attend(
        self, x_source: Tensor, x_target: Tensor, graph: SortedEdges, *, need_weights: bool
    ) -> tuple[Tensor, Tensor]:
        """See `GraphLayer`."""
        del need_weights  # the output needs them too
        values = self.project_source(x_source)
        weights = segment_softmax(self.logits(x_source, x_target, values, graph), graph)
        output = weighted_sum(values, self.dropout(weights), graph)
        if not self.settings.concat:
            output = output.unflatten(1, (self.shape.heads, -1)).mean(1)
        if self.residual is not None:
            output += self.residual(x_target)
        if self.bias is not None:
            output += self.bias
        return output, weights
