"""Graphs from interactions: user-item edges, item-item edges, attributes, and neighbour sampling."""

from attnrec.dataset.graph.attributes import attribute_edges
from attnrec.dataset.graph.blocks import Block, sample_blocks
from attnrec.dataset.graph.co_occurrence import item_co_occurrence
from attnrec.dataset.graph.compressed import Graph, graph_from_edges
from attnrec.dataset.graph.edges import Edges, user_item_edges
from attnrec.dataset.graph.neighbours import NeighbourTable, sampled_neighbours, strongest_neighbours
from attnrec.dataset.graph.transitions import Transitions, item_transitions
from attnrec.dataset.graph.two_hop_neighbours import two_hop_graph

__all__ = [
    "Block",
    "Edges",
    "Graph",
    "NeighbourTable",
    "Transitions",
    "attribute_edges",
    "item_co_occurrence",
    "graph_from_edges",
    "item_transitions",
    "sample_blocks",
    "sampled_neighbours",
    "strongest_neighbours",
    "two_hop_graph",
    "user_item_edges",
]
