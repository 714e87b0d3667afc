"""Attention over the edges of a graph: GAT and GATv2, without a tensor of edges x heads x channels."""

from collections.abc import Mapping
from typing import Any

from attnrec.attention.graph.forms import Graph, Segments, Table
from attnrec.attention.graph.gat import GAT
from attnrec.attention.graph.gatv2 import GATv2
from attnrec.attention.graph.layer import GraphLayer, GraphSettings, GraphShape

GRAPH_LAYERS: dict[str, type[GraphLayer]] = {"gat": GAT, "gatv2": GATv2}
"""Name in the TOML -> layer. A new layer is one file and one line here."""


def build_graph_layer(kind: str, shape: GraphShape, settings: Mapping[str, Any] | None = None) -> GraphLayer:
    """Make a layer by its name in the TOML.

    Args:
        kind: a name in `GRAPH_LAYERS`.
        shape: what it is built for.
        settings: of `GraphSettings`, such as {"dropout": 0.1}.

    Raises:
        ValueError: for an unknown layer (the known ones are listed) or an unknown or wrong setting.
    """
    if kind not in GRAPH_LAYERS:
        raise ValueError(f"graph layer must be one of {', '.join(sorted(GRAPH_LAYERS))}, got {kind!r}")
    return GRAPH_LAYERS[kind](shape, GraphSettings.from_dict(settings or {}))


__all__ = [
    "GAT",
    "GRAPH_LAYERS",
    "GATv2",
    "Graph",
    "GraphLayer",
    "GraphSettings",
    "GraphShape",
    "Segments",
    "Table",
    "build_graph_layer",
]
