"""Attention of items to their neighbours over one relation of a graph.

Shapes: n items asked for, K neighbours of the one among them that has the most.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class NeighbourShares:
    """To which items some items listen.

    Attributes:
        neighbours: item rows, (n, K) int64, each once; 0 where an item has fewer.
        shares: of each item's attention, (n, K) float32, 0 where there is no neighbour. Those of an item that has any
            sum to 1.
    """

    neighbours: Tensor
    shares: Tensor
