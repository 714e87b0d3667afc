"""Graph attention over one relation: one hop from item to item, or two hops through users or attribute values.

Shapes: N = n_items + 1 item rows, n requested items, D channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention import AttentionOutput
from attnrec.attention.graph import GRAPH_LAYERS, GraphLayer, GraphShape, SortedEdges, build_graph_layer
from attnrec.attention.graph.weighted_sum import weighted_sum
from attnrec.config import registered
from attnrec.models.graph.edge_weights import one_hop_weights, two_hop_weights
from attnrec.models.graph.neighbour_weights import NeighbourWeights
from attnrec.models.graph.settings import ItemGraphSettings, edge_dim


class OneHop(nn.Module):
    """One hop, item -> item; sources and targets share a projection, if the layer supports it."""

    def __init__(self, settings: ItemGraphSettings, dim: int, *, kind: str) -> None:
        super().__init__()
        self.layer = _layer(settings, dim, kind=kind, share_weights=True)

    def forward(self, items: Tensor, hops: list[SortedEdges]) -> Tensor:
        """Compute the attention output of each item, (N, D) -> (N, D); zeros for items without edges."""
        (hop,) = hops
        return self.layer(items, graph=hop).output * has_edges(hop)

    def weights(self, vectors: Tensor, items: Tensor, hops: list[SortedEdges]) -> NeighbourWeights:
        """Return the attention weights of items (n,) on their neighbours; `hops` are their `incoming_edges`."""
        (hop,) = hops
        return one_hop_weights(hop, self.layer(vectors, vectors[items], graph=hop, need_weights=True))


class TwoHops(nn.Module):
    """Two hops, item -> node -> item; the query of a node is the mean of its items."""

    def __init__(self, settings: ItemGraphSettings, dim: int, *, kind: str) -> None:
        super().__init__()
        self.to_nodes = _layer(settings, dim, kind=kind, share_weights=False)
        self.to_items = _layer(settings, dim, kind=kind, share_weights=False)

    def forward(self, items: Tensor, hops: list[SortedEdges]) -> Tensor:
        """Compute the attention output of each item, (N, D) -> (N, D); zeros for items without edges."""
        return self._attend(items, items, hops)[1].output * has_edges(hops[1])

    def weights(self, vectors: Tensor, items: Tensor, hops: list[SortedEdges]) -> NeighbourWeights:
        """Return the attention weights of items (n,) on items two hops away; `hops` are their `incoming_edges`."""
        attended = self._attend(vectors, vectors[items], hops, need_weights=True)
        return two_hop_weights(hops, attended, n_rows=len(vectors))

    def _attend(
        self, items: Tensor, queries: Tensor, hops: list[SortedEdges], *, need_weights: bool = False
    ) -> tuple[AttentionOutput, AttentionOutput]:
        inward, outward = hops
        nodes = self.to_nodes(items, _source_means(items, inward), graph=inward, need_weights=need_weights)
        return nodes, self.to_items(F.gelu(nodes.output), queries, graph=outward, need_weights=need_weights)


def has_edges(hop: SortedEdges) -> Tensor:
    """Return whether a target has an edge, (N, 1) bool."""
    return (hop.offsets.diff() > 0)[:, None]


def _layer(settings: ItemGraphSettings, dim: int, *, kind: str, share_weights: bool) -> GraphLayer:
    shape = GraphShape(
        dim, dim, heads=settings.heads, channels=dim // settings.heads, edge_dim=edge_dim(settings, kind)
    )
    layer = registered(GRAPH_LAYERS, settings.layer, setting="layer")
    return build_graph_layer(settings.layer, shape, {"share_weights": share_weights and layer.can_share_weights})


def _source_means(items: Tensor, hop: SortedEdges) -> Tensor:
    """Mean of the sources of each target; zeros for targets without edges."""
    weights = 1 / hop.offsets.diff().clamp(min=1).to(items.dtype)
    return weighted_sum(items, weights.index_select(0, hop.targets)[:, None], hop)
