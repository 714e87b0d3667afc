"""A walk of attention: from the history to an item of it, from there over the graph to a neighbour."""

from attnrec.models.random_walk.config import RandomWalkConfig
from attnrec.models.random_walk.model import SMALLEST, RandomWalk
from attnrec.models.random_walk.encoding import WalkEncoding

__all__ = ["SMALLEST", "RandomWalk", "RandomWalkConfig", "WalkEncoding"]
