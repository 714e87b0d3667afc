"""The interface of graph attention layers: shape, settings, input checks.

Shapes: S sources, N targets, E edges, F edge features, H heads, C channels per head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.graph.edges import Graph, SortedEdges
from attnrec.attention.kernel import AttentionOutput, WeightsKind
from attnrec.config import Config


@dataclass(frozen=True)
class GraphShape:
    """The sizes a layer is built for.

    Attributes:
        source_dim, target_dim: widths of the source and target matrices.
        heads, channels: H and C.
        edge_dim: F; 0 for a graph without edge features.
    """

    source_dim: int
    target_dim: int
    heads: int
    channels: int
    edge_dim: int = 0


class GraphSettings(Config):
    """Settings of a graph layer, named as in torch-geometric.

    Attributes:
        concat: concatenate the heads to width H * C; False averages them to width C.
        share_weights: project sources and targets with the same matrix, for nodes of one type.
        negative_slope: slope of the leaky ReLU below 0.
        dropout: rate on the attention weights, 0 to 1.
        bias: add a bias to the output, in GATv2 also to the projections.
        residual: add the projected target to the output.
    """

    concat: bool = True
    share_weights: bool = False
    negative_slope: float = Field(default=0.2, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    bias: bool = True
    residual: bool = False


class GraphLayer(nn.Module, ABC):
    """Each target becomes the sum of its projected sources, weighted by attention over its edges.

    No edge is added: a target attends to itself only if the graph has a self-loop (see `SortedEdges.add_self_loops`).
    Runs in float32 under autocast.

    Attributes:
        paper: reference of the method.
        weights_kind: see `kernel.AttentionKernel`.
        can_share_weights: whether `share_weights = true` is supported.
        out_dim: width of the output.
    """

    paper: ClassVar[str]
    weights_kind: ClassVar[WeightsKind] = "normalised"
    can_share_weights: ClassVar[bool] = True

    def __init__(self, shape: GraphShape, settings: GraphSettings | None = None) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings or GraphSettings()
        if self.settings.share_weights and shape.source_dim != shape.target_dim:
            raise ValueError(
                "share_weights needs sources and targets of the same width, got "
                f"{shape.source_dim} and {shape.target_dim}; set share_weights = false"
            )
        self.out_dim = shape.heads * shape.channels if self.settings.concat else shape.channels

    @abstractmethod
    def attend(
        self, x_source: Tensor, x_target: Tensor, graph: SortedEdges, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the output (N, out_dim) and, if needed, the weights before dropout in edge order, (E, H)."""

    def forward(
        self, x_source: Tensor, x_target: Tensor | None = None, *, graph: Graph, need_weights: bool = False
    ) -> AttentionOutput:
        """Attend from targets to the sources of their edges.

        Args:
            x_source: (S, source_dim).
            x_target: (N, target_dim); None if the targets are the sources.
            graph: the edges, in either format.
            need_weights: also return the weights.

        Returns:
            output: (N, H * C), or (N, C) with `concat = false`; bias and residual only for a target without edges.
            weights: before dropout, (E, H) in edge order, or (N, K, H) for `PaddedNeighbours`.

        Raises:
            ValueError: if the sizes of graph, matrices and shape do not match.
        """
        x_target = x_source if x_target is None else x_target
        edges = graph.as_sorted_edges
        self._check(x_source, x_target, edges)
        with torch.autocast(x_source.device.type, enabled=False):
            x_source, x_target = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (x_source, x_target))
            output, weights = self.attend(x_source, x_target, edges, need_weights=need_weights)
        return AttentionOutput(output, graph.align(weights) if need_weights and weights is not None else None)

    def _check(self, x_source: Tensor, x_target: Tensor, graph: SortedEdges) -> None:
        widths, shape = (x_source.shape[1], x_target.shape[1]), self.shape
        if widths != (shape.source_dim, shape.target_dim):
            raise ValueError(
                f"sources and targets must be {shape.source_dim} and {shape.target_dim} wide, got {widths}; "
                "build the layer for these widths"
            )
        if graph.n_targets != len(x_target):
            raise ValueError(
                f"the graph must have one segment or row per target, got {graph.n_targets} for {len(x_target)}; "
                "pass the matrix of the graph's targets"
            )
        first, last = (int(row) for row in graph.sources.aminmax()) if len(graph.sources) else (0, -1)
        if first < 0 or last >= len(x_source):
            raise ValueError(
                f"the graph's sources must be rows of x_source, got rows {first} to {last} of {len(x_source)}; "
                "pass the matrix of the graph's sources"
            )
        edge_dim = 0 if graph.edge_features is None else graph.edge_features.shape[1]
        if edge_dim != shape.edge_dim:
            raise ValueError(
                f"the graph must have the {shape.edge_dim} edge features that the layer was built for, got {edge_dim}; "
                f"build the layer with edge_dim = {edge_dim} or change the graph"
            )
