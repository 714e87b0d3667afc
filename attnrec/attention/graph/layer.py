"""What the graph attention layers share: projections, shares of each target's edges, the sum of the heads.

Shapes: S sources, N targets, E edges, F edge features, H heads, C channels per head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.graph.forms import Graph, Segments
from attnrec.attention.graph.segment_softmax import segment_softmax
from attnrec.attention.graph.weighted_sum import weighted_sum
from attnrec.attention.kernel import Attended, WeightsAre
from attnrec.config import Config
from attnrec.layers import Dropout, Linear


@dataclass(frozen=True)
class GraphShape:
    """What a layer is built for.

    Attributes:
        source_dim, target_dim: widths of the two matrices.
        heads, channels: H and C.
        edge_dim: F; 0 where nothing is known of the edges.
    """

    source_dim: int
    target_dim: int
    heads: int
    channels: int
    edge_dim: int = 0


class GraphSettings(Config):
    """What a person may set.

    `heads_are`: side by side, H * C wide, or averaged, C wide. `shared`: sources and targets are projected by one
    matrix, as where they are nodes of one kind. `negative_slope`: of the leaky ReLU. `dropout`: of weights. `bias`: of
    the output, and in GATv2 of projections. `residual`: the target, projected, is added to the output.
    """

    heads_are: Literal["concatenated", "averaged"] = "concatenated"
    shared: bool = False
    negative_slope: float = Field(default=0.2, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    bias: bool = True
    residual: bool = False


class GraphLayer(nn.Module, ABC):
    """Each target becomes a sum of its sources, projected and weighted by attention over its edges.

    No edge is added: a target attends to itself only where the graph says so (see `Segments.with_self_loops`). Weights
    are dropped after they are made, all in one draw, so that what is drawn does not depend on how the edges are gone
    through. Float32 under autocast.
    """

    paper: ClassVar[str]
    weights_are: ClassVar[WeightsAre] = "shares"
    biased_projections: ClassVar[bool]

    def __init__(self, shape: GraphShape, settings: GraphSettings | None = None) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings or GraphSettings()
        if self.settings.shared and shape.source_dim != shape.target_dim:
            raise ValueError(
                f"one matrix can project sources and targets only if they are equally wide, got {shape.source_dim} and "
                f"{shape.target_dim}; set shared = false"
            )
        width, bias = shape.heads * shape.channels, self.biased_projections and self.settings.bias
        self.out_dim = width if self.settings.heads_are == "concatenated" else shape.channels
        self.project_source = Linear(shape.source_dim, width, bias=bias)
        self.project_target = None if self.settings.shared else Linear(shape.target_dim, width, bias=bias)
        self.project_edges = Linear(shape.edge_dim, width, bias=False) if shape.edge_dim else None
        self.residual = Linear(shape.target_dim, self.out_dim, bias=False) if self.settings.residual else None
        self.bias = nn.Parameter(torch.zeros(self.out_dim)) if self.settings.bias else None
        self.dropout = Dropout(self.settings.dropout)
        for name, parameter in self.named_parameters():
            (nn.init.zeros_ if name.endswith("bias") else nn.init.xavier_uniform_)(parameter)

    @abstractmethod
    def energies(self, x_source: Tensor, x_target: Tensor, values: Tensor, graph: Segments) -> Tensor:
        """What the shares are a softmax of, (E, H), from both matrices and the projected sources (S, H * C)."""

    def forward(
        self, x_source: Tensor, x_target: Tensor | None = None, *, graph: Graph, need_weights: bool = False
    ) -> Attended:
        """Attend from targets to the sources of their edges.

        Args:
            x_source: (S, source_dim).
            x_target: (N, target_dim); None where the targets are the sources.
            graph: the edges, in either form.
            need_weights: also return the weights.

        Returns:
            output: (N, H * C), or (N, C) where heads are averaged; for a target without edges the bias and residual
            alone. weights: before dropout, (E, H) in the order of the edges, or (N, K, H) for a table.

        Raises:
            ValueError: where graph, matrices and shape do not fit each other.
        """
        x_target = x_source if x_target is None else x_target
        segments = graph.as_segments
        self._check(x_source, x_target, segments)
        with torch.autocast(x_source.device.type, enabled=False):
            x_source, x_target = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (x_source, x_target))
            values = self.project_source(x_source)
            weights = segment_softmax(self.energies(x_source, x_target, values, segments), segments)
            output = weighted_sum(values, self.dropout(weights), segments)
            if self.settings.heads_are == "averaged":
                output = output.unflatten(1, (self.shape.heads, -1)).mean(1)
            if self.residual is not None:
                output += self.residual(x_target)
            if self.bias is not None:
                output += self.bias
        return Attended(output, graph.aligned(weights) if need_weights else None)

    def _check(self, x_source: Tensor, x_target: Tensor, graph: Segments) -> None:
        widths, shape = (x_source.shape[1], x_target.shape[1]), self.shape
        if widths != (shape.source_dim, shape.target_dim):
            raise ValueError(
                f"sources and targets must be {shape.source_dim} and {shape.target_dim} wide, got {widths}; "
                "build the layer for them"
            )
        if graph.n_targets != len(x_target):
            raise ValueError(
                f"the graph must have a segment or row for each target, got {graph.n_targets} for {len(x_target)}; "
                "give the matrix that its targets are rows of"
            )
        first, last = (int(row) for row in graph.sources.aminmax()) if len(graph.sources) else (0, -1)
        if first < 0 or last >= len(x_source):
            raise ValueError(
                f"sources must be rows of the matrix, got rows {first} to {last} of {len(x_source)}; "
                "give the matrix that they are rows of"
            )
        edge_dim = 0 if graph.edges is None else graph.edges.shape[1]
        if edge_dim != shape.edge_dim:
            raise ValueError(
                f"the graph must have the {shape.edge_dim} edge features that the layer was built for, got {edge_dim}; "
                f"build the layer with edge_dim = {edge_dim} or change the graph"
            )
