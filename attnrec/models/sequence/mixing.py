"""A sequence model that shares the word with a walk over the graph: chances are a mixture of both.

P(i) = (1 - g) softmax(scores)_i + g walk_i, where the walk may copy what followed the history's items before, and the
gate g is a function of the user's state; after pointer mixtures (Merity et al. 2016, arXiv:1609.07843).
Shapes: B users, L positions, T positions asked, N = n_items + 1 item rows, D channels.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.dataset import Batch
from attnrec.layers import Linear
from attnrec.models.base import ReasonsError
from attnrec.models.catalogue import Catalogue, VectorReading
from attnrec.models.graph_walk import GraphWalk, GraphWalkConfig, WalkReading

WHY_NONE = (
    "contributions need scores that are sums over the history, got a mixture with a walk, whose other part, a softmax, "
    "is no such sum; set walk = 'none', or take kind = 'graph_walk'"
)


class Mixing(nn.Module):
    """The walk and the gate."""

    def __init__(self, config: GraphWalkConfig, n_items: int, *, dim: int) -> None:
        super().__init__()
        self.walk = GraphWalk(config, n_items)
        self.gate = Linear(dim, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def log_odds(self, users: Tensor) -> Tensor:
        """Of the walk against the softmax, (..., D) -> (...)."""
        return self.gate(users).squeeze(-1)

    def others(self, users: Tensor, batch: Batch, asked: Tensor) -> tuple[Tensor, Tensor]:
        """What the softmax's loss needs to be that of the mixture.

        Args:
            users: at the positions asked, (T, D).
            batch: with targets.
            asked: those positions, (B, L) bool.

        Returns:
            (T,): what the walk gives to each target, as `losses.full_softmax` wants it; and a mean to be added.
        """
        assert batch.targets is not None, "a training batch has targets"
        log_odds = self.log_odds(users)
        if int(asked.sum(1).max()) <= 1:  # one place of each: no need to walk from the others
            places, any_asked = asked.int().argmax(1), asked.any(1)
            wanted = batch.targets.gather(1, places[:, None])[:, 0]
            chances = self.walk.chances_at(batch, places, wanted)[any_asked]
        else:
            chances = self.walk.chances(batch, batch.targets)[asked]
        return chances.log() + log_odds, F.softplus(log_odds).sum() / max(1, len(log_odds))

    def read(self, batch: Batch, reading: VectorReading) -> "MixedReading":
        """Both readings of the same histories as one."""
        return MixedReading(reading, self.walk.read(batch), self.log_odds(reading.users).sigmoid(), self.walk.mass())

    def item_bias(self, catalogue: Catalogue) -> Tensor:
        """Scores of a user without history, (N,)."""
        share = self.gate.bias.sigmoid()
        return (1 - share) * _lifts(catalogue.biases()[None])[0] + share * self.walk.item_bias() / self.walk.mass()


@dataclass(frozen=True, eq=False)
class MixedReading:
    """Chances, times the number of items.

    Attributes:
        sequence, walk: the two readings.
        share: of the walk, (B,).
        mass: of all chances of the walk, a scalar.
    """

    sequence: VectorReading
    walk: WalkReading
    share: Tensor
    mass: Tensor

    @property
    def users(self) -> Tensor:
        """What the encoder made of the histories, (B, D)."""
        return self.sequence.users

    @property
    def weights(self) -> Tensor | None:
        """See `base.Reading`: of the encoder's readout where that has any, else where the walks start."""
        return self.walk.weights if self.sequence.weights is None else self.sequence.weights

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.Reading`."""
        share = self.share[:, None]
        scores = (1 - share) * _lifts(self.sequence.scores()) + share * self.walk.scores() / self.mass
        return scores if items is None else scores.gather(1, items)

    def contributions(self, items: Tensor) -> Tensor:
        """There are none."""
        raise ReasonsError(WHY_NONE)


def _lifts(scores: Tensor) -> Tensor:
    """Softmax over the items, times their number; 0 in row 0."""
    chances = scores[:, 1:].softmax(1) * (scores.shape[1] - 1)
    return F.pad(chances, (1, 0))
