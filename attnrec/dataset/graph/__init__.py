"""Graphs from interactions: user-item edges, item-item edges, attributes, and neighbour sampling."""

from attnrec.dataset.graph.attributes import attribute_edges
from attnrec.dataset.graph.blocks import Block, sample_blocks
from attnrec.dataset.graph.co_occurrence import item_co_occurrence
from attnrec.dataset.graph.compressed import Graph, graph_from_edges
from attnrec.dataset.graph.edges import Edges, user_item_edges
from attnrec.dataset.graph.hetero_data import HeteroGraphs, from_hetero_data, to_hetero_data
from attnrec.dataset.graph.neighbours import NeighbourTable, sampled_neighbours, strongest_neighbours
from attnrec.dataset.graph.transitions import Transitions, item_transitions
from attnrec.dataset.graph.two_hop_neighbours import two_hop_graph

__all__ = [
    "Block",
    "Edges",
    "Graph",
    "HeteroGraphs",
    "NeighbourTable",
    "Transitions",
    "attribute_edges",
    "from_hetero_data",
    "graph_from_edges",
    "item_co_occurrence",
    "item_transitions",
    "sample_blocks",
    "sampled_neighbours",
    "strongest_neighbours",
    "to_hetero_data",
    "two_hop_graph",
    "user_item_edges",
]
