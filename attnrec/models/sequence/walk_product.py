"""Product of a sequence model and a random walk: both probability distributions, each raised to a learned power.

log P(i) = a log softmax(scores)_i + b log P_walk(i) - normalisation (logarithmic pooling: Genest & Zidek 1986,
doi:10.1214/ss/1177013825; products of experts: Hinton 2002, doi:10.1162/089976602760128018). Encoder and walk are each
trained by their own loss, like separate models (except that gradients are clipped together). The powers a and b are
trained on the product, on a holdout of users. With one common loss the encoder would get almost no gradient, because
the walk is better at first.
Shapes: B users, L positions, T positions with a target, N = n_items + 1 item rows, D channels.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.dataset import Batch, Histories
from attnrec.models.base import ReasonsError
from attnrec.models.item_scores import ItemScorer, VectorEncoding
from attnrec.models.random_walk import MIN_PROBABILITY, RandomWalk, RandomWalkConfig, WalkEncoding
from attnrec.models.random_walk.neighbour_tables import fold_of

WALK_USER_SHARE = 0.25
"""Share of the users in a batch that the walk is trained on: with few weights it needs less data than the encoder."""

HOLDOUT_FOLDS, HOLDOUT_POSITIONS = 20, 32
"""One user in `HOLDOUT_FOLDS` trains only the powers, at up to `HOLDOUT_POSITIONS` positions per batch: on users it was
trained on, the encoder is overconfident (stacking: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1). A graph of the
encoder (`graph`) still contains the events of all users."""

HOLDOUT_OFFSET = 1_000_003
"""Added to user rows, so that the holdout is independent of the folds of the walk, which also come from `fold_of`."""

LR_MULTIPLIERS = {"walk_product.random_walk": 3.0, "walk_product.log_powers": 10.0}
"""Learning rates relative to the encoder: both modules have few weights and a useful initialisation."""

INITIAL_POWERS = (0.5, 1.0)
"""Initial powers of the encoder and of the walk."""

NOT_ADDITIVE = (
    "contributions need scores that are sums over the history, got a product with a random walk, which is not "
    "additive; set random_walk = 'none', or use kind = 'random_walk'"
)


class WalkProduct(nn.Module):
    """A random walk, and the powers of encoder and walk."""

    def __init__(self, config: RandomWalkConfig, n_items: int) -> None:
        super().__init__()
        self.random_walk = RandomWalk(config, n_items)
        self.has_holdout = False
        self.log_powers = nn.Parameter(torch.tensor(INITIAL_POWERS).log())
        # popularity weight 1: no item has a walk probability near 0, which no power could correct
        nn.init.zeros_(self.random_walk.log_popularity_weight)

    @property
    def powers(self) -> Tensor:
        """Powers of encoder and walk, (2,)."""
        return self.log_powers.exp()

    def observe(self, histories: Histories) -> None:
        """Build the graphs of the walk. With few users there is no holdout, and the powers stay as initialised."""
        self.random_walk.observe(histories)
        self.has_holdout = histories.n_users >= 2 * HOLDOUT_FOLDS

    def is_holdout(self, batch: Batch) -> Tensor:
        """Return which users train only the powers, (B,) bool; none if the batch has no `users`."""
        if batch.users is None or not self.has_holdout:
            return torch.zeros_like(batch.lengths, dtype=torch.bool)
        return fold_of(batch.users + HOLDOUT_OFFSET, HOLDOUT_FOLDS) == 0

    def loss(self, encoded: VectorEncoding, batch: Batch, has_target: Tensor) -> Tensor:
        """Compute the losses of the walk and of the powers, each weighted by its share of the positions, in nats.

        Args:
            encoded: user vectors at the T positions with a target, without gradients.
            batch: with targets; without `users`, all positions train both the walk and the powers.
            has_target: positions with a target, (B, L) bool.
        """
        holdout = has_target & self.is_holdout(batch)[:, None]
        for_walk, for_powers = has_target & ~holdout, has_target if batch.users is None else holdout
        loss = 0 * self.log_powers.sum()
        if for_walk.any():
            loss = loss + self._walk_loss(batch, for_walk) * (for_walk.sum() / has_target.sum())
        if for_powers.any():
            share = for_powers.sum() / has_target.sum()
            loss = loss + self._powers_loss(encoded, batch, has_target, for_powers) * share
        return loss

    def _walk_loss(self, batch: Batch, has_target: Tensor) -> Tensor:
        rows = has_target.any(1).nonzero()[:, 0]
        rows = _sample_rows(rows, round(WALK_USER_SHARE * len(rows)))
        batch, has_target = batch.select(rows), has_target[rows]
        assert batch.targets is not None, "a training batch has targets"
        if int(has_target.sum(1).max()) > 1:
            return -self.random_walk.probabilities(batch, batch.targets)[has_target].log().mean()
        positions = has_target.int().argmax(1)  # one target per user: other positions need not be computed
        targets = batch.targets.gather(1, positions[:, None])[:, 0]
        return -self.random_walk.probabilities_at(batch, positions, targets).log().mean()

    def _powers_loss(self, encoded: VectorEncoding, batch: Batch, has_target: Tensor, for_powers: Tensor) -> Tensor:
        """Compute the cross-entropy of the product at a sample of the positions `for_powers`, (B, L) bool."""
        assert batch.targets is not None, "a training batch has targets"
        rows, positions = _sample_rows(for_powers.nonzero(), HOLDOUT_POSITIONS).unbind(1)
        index = (has_target.flatten().cumsum(0) - 1).view_as(has_target)[rows, positions]  # among the T user vectors
        with torch.no_grad():
            scores = replace(encoded, users=encoded.users[index]).scores()
            probabilities = self.random_walk.all_probabilities(batch.select(rows), positions)
        product = _log_product(scores, probabilities, self.powers)
        return F.cross_entropy(product[:, 1:], batch.targets[rows, positions] - 1)

    def encode(self, batch: Batch, encoded: VectorEncoding) -> "WalkProductEncoding":
        """Combine the encoded histories of the sequence model with those of the walk."""
        return WalkProductEncoding(encoded, self.random_walk.encode(batch), self.powers)

    def item_bias(self, scorer: ItemScorer) -> Tensor:
        """Return the scores of a user without history, (N,)."""
        return _log_product(scorer.biases(), self.random_walk.item_bias(), self.powers)


@dataclass(frozen=True, eq=False)
class WalkProductEncoding:
    """Scores are log probabilities, up to a constant per user.

    Attributes:
        sequence, walk: the encoded histories of both models.
        powers: powers of both, (2,).
    """

    sequence: VectorEncoding
    walk: WalkEncoding
    powers: Tensor

    @property
    def users(self) -> Tensor:
        """User vectors of the sequence model, (B, D)."""
        return self.sequence.users

    @property
    def weights(self) -> Tensor | None:
        """See `base.EncodedHistories`; of the readout if it has attention weights, otherwise of the walk."""
        return self.walk.weights if self.sequence.weights is None else self.sequence.weights

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        return _log_product(self.sequence.scores(items), self.walk.scores(items), self.powers)

    def contributions(self, items: Tensor) -> Tensor:
        """Raise `ReasonsError`: the scores are not additive."""
        raise ReasonsError(NOT_ADDITIVE)


def _log_product(scores: Tensor, probabilities: Tensor, powers: Tensor) -> Tensor:
    """Unnormalised log of softmax(scores) and walk probabilities, each raised to its power."""
    return powers[0] * scores + powers[1] * probabilities.clamp(min=MIN_PROBABILITY).log()


def _sample_rows(tensor: Tensor, n: int) -> Tensor:
    """Return n random rows of a tensor, at least one."""
    return tensor[torch.randperm(len(tensor))[: max(1, n)].to(tensor.device)]
