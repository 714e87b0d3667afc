"""A walk of attention: from the history to an item of it, from there over the graph to a neighbour."""

from attnrec.models.random_walk.config import GraphWalkConfig
from attnrec.models.random_walk.model import SMALLEST, GraphWalk
from attnrec.models.random_walk.reading import WalkReading

__all__ = ["SMALLEST", "GraphWalk", "GraphWalkConfig", "WalkReading"]
