"""GAT (Velickovic et al. 2018, arXiv:1710.10903), with edge features.

e = leaky_relu(a_source' W x_j + a_target' W x_i + a_edge' W_edge f_ij): a sum of one number per node and edge, so no
edge has channels. Without edge features it ranks sources the same for every target, which GATv2 does not.
Shapes: S sources, N targets, E edges, F edge features, H heads, C channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention.graph.additive import AdditiveGraphLayer
from attnrec.attention.graph.edges import SortedEdges
from attnrec.attention.graph.layer import GraphSettings, GraphShape
from attnrec.layers import Linear


class GAT(AdditiveGraphLayer):
    """Attention logits from one vector per head for sources, targets and edges, (H, C) each."""

    paper = "Velickovic et al. 2018, arXiv:1710.10903"
    biased_projections = False

    def __init__(self, shape: GraphShape, settings: GraphSettings | None = None) -> None:
        super().__init__(shape, settings)
        self.attention_source = self._vectors()
        self.attention_target = self._vectors()
        self.attention_edges = self._vectors() if shape.edge_dim else None

    def logits(self, x_source: Tensor, x_target: Tensor, values: Tensor, graph: SortedEdges) -> Tensor:
        """See `AdditiveGraphLayer`. Vectors and projections are multiplied first, so targets need no channels."""
        source_weight = _fold(self.project_source, self.attention_source)
        target_weight = _fold(self.project_target or self.project_source, self.attention_target)
        if x_target is x_source:  # one pass over the nodes, and over their gradient
            source_terms, target_terms = F.linear(x_source, torch.cat([source_weight, target_weight])).chunk(2, 1)
        else:
            source_terms, target_terms = F.linear(x_source, source_weight), F.linear(x_target, target_weight)
        logits = source_terms.index_select(0, graph.sources).add_(graph.to_edges(target_terms))
        if graph.edge_features is not None and self.project_edges is not None and self.attention_edges is not None:
            edge_weight = _fold(self.project_edges, self.attention_edges)
            logits.add_(F.linear(graph.edge_features.to(values.dtype), edge_weight))
        return F.leaky_relu_(logits, self.settings.negative_slope)

    def _vectors(self) -> nn.Parameter:
        return nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.shape.heads, self.shape.channels)))


def _fold(projection: Linear, attention: Tensor) -> Tensor:
    """Return a' W of each head, (H, in)."""
    return (projection.weight.unflatten(0, attention.shape) * attention[..., None]).sum(1)
