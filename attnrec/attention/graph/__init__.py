"""Attention over the edges of a graph: GAT and GATv2 without a tensor of edges x heads x channels.

A layer whose name begins with `pyg_` is torch-geometric's own.
"""

from collections.abc import Mapping
from typing import Any

from attnrec.attention.graph.edges import Graph, PaddedNeighbours, SortedEdges
from attnrec.attention.graph.gat import GAT
from attnrec.attention.graph.gatv2 import GATv2
from attnrec.attention.graph.layer import GraphLayer, GraphSettings, GraphShape
from attnrec.attention.graph.pyg import PyGGAT, PyGGATv2, PyGTransformer
from attnrec.config import registered

GRAPH_LAYERS: dict[str, type[GraphLayer]] = {
    "gat": GAT,
    "gatv2": GATv2,
    "pyg_gat": PyGGAT,
    "pyg_gatv2": PyGGATv2,
    "pyg_transformer": PyGTransformer,
}
"""Name in the TOML -> layer. To add a layer, write one file and add one line here."""


def build_graph_layer(kind: str, shape: GraphShape, settings: Mapping[str, Any] | None = None) -> GraphLayer:
    """Build a graph layer by its name in the TOML.

    Args:
        kind: a name in `GRAPH_LAYERS`.
        shape: the sizes it is built for.
        settings: fields of `GraphSettings`, such as {"dropout": 0.1}.

    Raises:
        ValueError: for an unknown layer, an unknown or invalid setting, or one that the layer does not support.
    """
    return registered(GRAPH_LAYERS, kind, setting="layer")(shape, GraphSettings.from_dict(settings or {}))


__all__ = [
    "GAT",
    "GRAPH_LAYERS",
    "GATv2",
    "Graph",
    "GraphLayer",
    "GraphSettings",
    "GraphShape",
    "PaddedNeighbours",
    "SortedEdges",
    "build_graph_layer",
]
