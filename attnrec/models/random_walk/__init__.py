"""Random walk with learned transition probabilities: from an event of the history to a neighbour of its item."""

from attnrec.models.random_walk.config import RandomWalkConfig
from attnrec.models.random_walk.encoding import WalkEncoding
from attnrec.models.random_walk.model import MIN_PROBABILITY, RandomWalk

__all__ = ["MIN_PROBABILITY", "RandomWalk", "RandomWalkConfig", "WalkEncoding"]
