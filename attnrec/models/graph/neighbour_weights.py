"""Attention weights of items on their neighbours, over one relation of a graph.

Shapes: n requested items, K neighbours of the item that has the most.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class NeighbourWeights:
    """Neighbours of some items, and the attention weights on them.

    Attributes:
        neighbours: distinct item rows, (n, K) int64; 0 where an item has fewer than K.
        weights: attention weights, (n, K) float32; 0 at padding. They sum to 1 for an item with neighbours.
    """

    neighbours: Tensor
    weights: Tensor
