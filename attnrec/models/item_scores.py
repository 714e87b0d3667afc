"""Scores of user vectors against item vectors: dot products or scaled cosines, plus an item bias.

Cosine scores with temperature .07 as in CLIP (Radford et al. 2021, arXiv:2103.00020).
Shapes: B users, L positions, n requested items, N = n_items + 1 item rows, D channels, T flat positions.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.dataset import Histories
from attnrec.losses import LossConfig, catalogue_loss
from attnrec.models.base import ReasonsError

SMALLEST_NORM = 1e-6


class ItemScorer(nn.Module):
    """Embeddings and biases of all items, and the scores and training loss of user vectors.

    Args:
        n_items: number of items, without padding.
        dim: width of a vector.
        temperature: cosines are divided by it; None means dot products.
        item_bias: whether items have a learned bias.
        base_score: initial value of the biases.

    Attributes:
        counts: events of each item in training, (N,), for negatives sampled by popularity; not saved.
    """

    counts: Tensor | None

    def __init__(
        self, n_items: int, dim: int, *, temperature: float | None, item_bias: bool, base_score: float = 0.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.embedding = nn.Embedding(n_items + 1, dim, padding_idx=0)
        # small, also for cosines: vectors of length 1 train far slower (ML-1M, two epochs: .049 against .140)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.bias = nn.Parameter(torch.full((n_items + 1,), base_score)) if item_bias else None
        self.register_buffer("counts", None, persistent=False)
        self.item_rows = ("embedding.weight", "bias") if item_bias else ("embedding.weight",)

    def forward(self, items: Tensor) -> Tensor:
        """Return the embeddings of item rows, (..., D)."""
        return self.embedding(items)

    def biases(self) -> Tensor:
        """Return the item biases, (N,); zeros for a model without."""
        return torch.zeros_like(self.embedding.weight[:, 0]) if self.bias is None else self.bias

    def scaled(self, vectors: Tensor) -> Tensor:
        """Scale item vectors for scoring: to length 1 / temperature for cosines, unchanged for dot products."""
        if self.temperature is None:
            return vectors
        return F.normalize(vectors, dim=-1, eps=SMALLEST_NORM) / self.temperature

    def user_scale(self, users: Tensor) -> Tensor:
        """Return the factor of a user's scores: 1 / |u| for cosines, 1 for dot products, (..., 1)."""
        if self.temperature is None:
            return torch.ones_like(users[..., :1])
        return 1 / users.norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)

    def observe(self, histories: Histories, *, config: LossConfig) -> None:
        """Count the events of each item, if negatives are sampled by popularity."""
        if config.negatives == "popularity":
            self.counts = torch.from_numpy(histories.item_counts()).to(self.embedding.weight.device)

    def loss(self, users: Tensor, targets: Tensor, *, table: Tensor, config: LossConfig) -> Tensor:
        """Compute the mean loss of `targets` (T,) for user vectors (T, D) and an item table (N, D), in nats."""
        users, items = users * self.user_scale(users), self.scaled(table[1:])
        bias = None if self.bias is None else self.bias[1:]
        counts = None if self.counts is None else self.counts[1:]
        return catalogue_loss(users, items, bias, targets, config=config, counts=counts)


@dataclass(frozen=True, eq=False)
class VectorEncoding:
    """User vectors, which may be sums of one part per event.

    Attributes:
        item_scorer: computes the scores.
        table: item vectors, (N, D).
        users: user vectors, (B, D); the sum of `parts` over L if there are parts.
        parts: part of each event in the user vector, (B, L, D); None if it is not a sum over the history.
        weights: attention weight of each event, (B, L), or None.
        not_additive: error message of `contributions` if there are no parts.
    """

    item_scorer: ItemScorer
    table: Tensor
    users: Tensor
    parts: Tensor | None
    weights: Tensor | None
    not_additive: str = ""

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        users = self.users * self.item_scorer.user_scale(self.users)
        if items is None:
            return users @ self._scaled.mT + self.item_scorer.biases()
        vectors = self.item_scorer.scaled(self.table[items])
        return (vectors @ users[..., None]).squeeze(-1) + self.item_scorer.biases()[items]

    def contributions(self, items: Tensor) -> Tensor:
        """See `base.EncodedHistories`."""
        if self.parts is None:
            raise ReasonsError(self.not_additive)
        scale = self.item_scorer.user_scale(self.users)[:, None]
        return (self.parts * scale) @ self._scaled[items].mT

    @cached_property
    def _scaled(self) -> Tensor:
        return self.item_scorer.scaled(self.table)
