"""Item vectors, and scores against them: dot products, or cosines at a temperature, plus an item bias.

Cosine scores at temperature .07 as in CLIP (Radford et al. 2021, arXiv:2103.00020).
Shapes: B users, L positions, n items asked for, N = n_items + 1 item rows, D channels, T flat positions.
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
    """The catalogue's vectors and biases.

    Args:
        n_items: items, padding not counted.
        dim: width of a vector.
        temperature: cosines are divided by it; None means plain dot products.
        item_bias: whether items have a learned bias.
        base_score: what the biases are at the start.
    """

    counts: Tensor | None

    def __init__(
        self, n_items: int, dim: int, *, temperature: float | None, item_bias: bool, base_score: float = 0.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.embedding = nn.Embedding(n_items + 1, dim, padding_idx=0)
        # small, also for cosines: unit-sized vectors learned far slower (ML-1M, two epochs: .049 against .140)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.bias = nn.Parameter(torch.full((n_items + 1,), base_score)) if item_bias else None
        self.register_buffer("counts", None, persistent=False)
        self.item_rows = ("embedding.weight", "bias") if item_bias else ("embedding.weight",)

    def forward(self, items: Tensor) -> Tensor:
        """Vectors of item rows, (..., D)."""
        return self.embedding(items)

    def biases(self) -> Tensor:
        """(N,), zeros where the model has none."""
        return torch.zeros_like(self.embedding.weight[:, 0]) if self.bias is None else self.bias

    def scaled(self, vectors: Tensor) -> Tensor:
        """Item vectors as scores use them: unit length / temperature, or as they are."""
        if self.temperature is None:
            return vectors
        return F.normalize(vectors, dim=-1, eps=SMALLEST_NORM) / self.temperature

    def user_scale(self, users: Tensor) -> Tensor:
        """The common factor 1 / |u| of a user's scores (1 for dot products), (..., 1)."""
        if self.temperature is None:
            return torch.ones_like(users[..., :1])
        return 1 / users.norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)

    def observe(self, histories: Histories, *, config: LossConfig) -> None:
        """Keep how often each item occurs in training, (N,), where negatives are drawn by it; it is not saved."""
        if config.negatives == "popularity":
            self.counts = torch.from_numpy(histories.item_counts()).to(self.embedding.weight.device)

    def loss(self, users: Tensor, targets: Tensor, *, table: Tensor, config: LossConfig) -> Tensor:
        """Mean loss of `targets` (T,) for user vectors (T, D) against a table (N, D), as `config` asks for, nats."""
        users, items = users * self.user_scale(users), self.scaled(table[1:])
        bias = None if self.bias is None else self.bias[1:]
        counts = None if self.counts is None else self.counts[1:]
        return catalogue_loss(users, items, bias, targets, config=config, counts=counts)


@dataclass(frozen=True, eq=False)
class VectorEncoding:
    """Users as vectors that may be sums of parts, one per event.

    Attributes:
        catalogue: whose scores these are.
        table: item vectors, (N, D).
        users: (B, D); the sum of `parts` over L where there are parts.
        parts: (B, L, D), or None when the user vector is no sum over the history.
        weights: (B, L) or None.
        why_none: said by `contributions` when there are no parts.
    """

    catalogue: ItemScorer
    table: Tensor
    users: Tensor
    parts: Tensor | None
    weights: Tensor | None
    why_none: str = ""

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        users = self.users * self.item_scorer.user_scale(self.users)
        if items is None:
            return users @ self._scaled.mT + self.item_scorer.biases()
        chosen = self.item_scorer.scaled(self.table[items])
        return (chosen @ users[..., None]).squeeze(-1) + self.item_scorer.biases()[items]

    def contributions(self, items: Tensor) -> Tensor:
        """See `base.EncodedHistories`."""
        if self.parts is None:
            raise ReasonsError(self.why_none)
        scale = self.item_scorer.user_scale(self.users)[:, None]
        return (self.parts * scale) @ self._scaled[items].mT

    @cached_property
    def _scaled(self) -> Tensor:
        return self.item_scorer.scaled(self.table)
