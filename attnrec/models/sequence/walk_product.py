"""A sequence model that shares the word with a walk over the graph: both chances, each to a power, multiplied.

log P(i) = a log softmax(scores)_i + b log walk_i, less what makes them sum to 1 (logarithmic pooling: Genest & Zidek
1986, doi:10.1214/ss/1177013825; products of experts: Hinton 2002, doi:10.1162/089976602760128018). Each part learns
from its own loss, as if it were alone (but that gradients are clipped together), and the powers from what both say:
where parts share one loss, the one that is better at first leaves the other nothing to learn.
Shapes: B users, L positions, T positions asked, N = n_items + 1 item rows, D channels.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.dataset import Batch, Histories
from attnrec.models.base import ReasonsError
from attnrec.models.item_scores import ItemScorer, VectorEncoding
from attnrec.models.random_walk import SMALLEST, RandomWalk, RandomWalkConfig, WalkEncoding
from attnrec.models.random_walk.neighbourhoods import fold_of

WALKING = 0.25
"""Share of the users of whom the walk is asked: it has few weights and learns in less time than the encoder."""

HELD, DRAWN = 20, 32
"""One user in so many, by row, is asked for the powers alone, at so many positions at most: where the encoder has
learned what came next, it sounds surer than it may be (stacking: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1). A
graph of the encoder's own (`graph`) knows them all the same."""

FAR = 1_000_003
"""Rows are so far from those that `fold_of` deals into the walk's folds, so that the two draws are independent."""

WALK_PACE, POWERS_PACE = 3.0, 10.0
"""Of their learning, for one of the encoder: they have few weights, which start where they can be of use."""

POWERS = (0.5, 1.0)
"""Of the encoder and of the walk at the start."""

WHY_NONE = (
    "contributions need scores that are sums over the history, got a product with a walk, whose logarithms are no such "
    "sum; set random_walk = 'none', or take kind = 'random_walk'"
)


class WalkProduct(nn.Module):
    """The walk, and the powers of both."""

    def __init__(self, config: RandomWalkConfig, n_items: int) -> None:
        super().__init__()
        self.walk = RandomWalk(config, n_items)
        self.holding = False
        self.log_powers = nn.Parameter(torch.tensor(POWERS).log())
        nn.init.zeros_(self.walk.background)  # so that no item is out of its reach, which no power could bring back

    @property
    def powers(self) -> Tensor:
        """Of the encoder and of the walk, (2,)."""
        return self.log_powers.exp()

    def observe(self, histories: Histories) -> None:
        """Make the walk's graphs; of few users none are held, and the powers stay as they are."""
        self.walk.observe(histories)
        self.holding = histories.n_users >= 2 * HELD

    def held(self, batch: Batch) -> Tensor:
        """Users of whom neither the encoder nor the walk learns, (B,) bool; none where it is not known who they are."""
        if batch.users is None or not self.holding:
            return torch.zeros_like(batch.lengths, dtype=torch.bool)
        return fold_of(batch.users + FAR, HELD) == 0

    def loss(self, sequence: VectorEncoding, batch: Batch, asked: Tensor) -> Tensor:
        """Of the walk and of the powers, in nats, each as large as its share of the positions.

        Args:
            sequence: of the positions asked, T of them, without gradients.
            batch: with targets; where it has no users, all are asked for the powers, too.
            asked: those positions, (B, L) bool.
        """
        held = asked & self.held(batch)[:, None]
        learned, for_powers = asked & ~held, asked if batch.users is None else held
        loss = 0 * self.log_powers.sum()
        if learned.any():
            loss = loss + self._walk_loss(batch, learned) * (learned.sum() / asked.sum())
        if for_powers.any():
            loss = loss + self._powers_loss(sequence, batch, asked, for_powers) * (for_powers.sum() / asked.sum())
        return loss

    def _walk_loss(self, batch: Batch, asked: Tensor) -> Tensor:
        rows = asked.any(1).nonzero()[:, 0]
        rows = _some(rows, round(WALKING * len(rows)))
        batch, asked = batch.select(rows), asked[rows]
        assert batch.targets is not None, "a training batch has targets"
        if int(asked.sum(1).max()) > 1:
            return -self.walk.probabilities(batch, batch.targets)[asked].log().mean()
        place = asked.int().argmax(1)  # one place of each: no need to walk from the others
        return -self.walk.probabilities_at(batch, place, batch.targets.gather(1, place[:, None])[:, 0]).log().mean()

    def _powers_loss(self, sequence: VectorEncoding, batch: Batch, asked: Tensor, held: Tensor) -> Tensor:
        """Cross-entropy of the targets at some of the positions held, (B, L) bool, which are among those asked."""
        assert batch.targets is not None, "a training batch has targets"
        rows, place = _some(held.nonzero(), DRAWN).unbind(1)
        number = (asked.flatten().cumsum(0) - 1).view_as(asked)[rows, place]  # among the T
        with torch.no_grad():
            said = (
                replace(sequence, users=sequence.users[number]).scores(),
                self.walk.all_probabilities(batch.select(rows), place),
            )
        return F.cross_entropy(_pooled(*said, self.powers)[:, 1:], batch.targets[rows, place] - 1)

    def encode(self, batch: Batch, encoded: VectorEncoding) -> "WalkProductEncoding":
        """Both readings of the same histories as one."""
        return WalkProductEncoding(encoded, self.walk.encode(batch), self.powers)

    def item_bias(self, catalogue: ItemScorer) -> Tensor:
        """Scores of a user without history, (N,)."""
        return _pooled(catalogue.biases(), self.walk.item_bias(), self.powers)


@dataclass(frozen=True, eq=False)
class WalkProductEncoding:
    """Logarithms of chances, up to a constant of each user.

    Attributes:
        sequence, walk: the two readings.
        powers: of the two, (2,).
    """

    sequence: VectorEncoding
    walk: WalkEncoding
    powers: Tensor

    @property
    def users(self) -> Tensor:
        """What the encoder made of the histories, (B, D)."""
        return self.sequence.users

    @property
    def weights(self) -> Tensor | None:
        """See `base.EncodedHistories`: of the encoder's readout where that has any, else where the walks start."""
        return self.walk.weights if self.sequence.weights is None else self.sequence.weights

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        return _pooled(self.sequence.scores(items), self.walk.scores(items), self.powers)

    def contributions(self, items: Tensor) -> Tensor:
        """There are none."""
        raise ReasonsError(WHY_NONE)


def _pooled(scores: Tensor, chances: Tensor, powers: Tensor) -> Tensor:
    """Scores of the encoder and chances of the walk, in logarithms, each times its power."""
    return powers[0] * scores + powers[1] * chances.clamp(min=SMALLEST).log()


def _some(of: Tensor, n: int) -> Tensor:
    """So many rows of a tensor, at least one, drawn at random."""
    return of[torch.randperm(len(of))[: max(1, n)].to(of.device)]
