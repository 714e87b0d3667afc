"""EASE: item weights that restore each user's items from the others, in closed form (Steck 2019, arXiv:1905.03375).

B = I - P / diag(P) with P = (X'X + regularization * I)^-1 and X the binary matrix of users and items; the diagonal
of B is zero, so no item speaks for itself.
Shapes: B users, L positions, n items asked for, N = n_items + 1 item rows.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attnrec.dataset import Batch, Histories
from attnrec.models.base import Model, ModelConfig
from attnrec.models.distinct_items import co_occurrences, last_occurrences


class EASEConfig(ModelConfig):
    """Settings of EASE.

    Attributes:
        regularization: how many events the diagonal of the table counts more.
        precision: of the solution; "float32" takes half the memory.
        max_items: the largest catalogue it takes, because its table has a place per pair.
        max_length: events of a history, the newest.
    """

    kind: Literal["ease"] = "ease"
    regularization: float = Field(default=500.0, gt=0)
    precision: Literal["float64", "float32"] = "float64"
    max_items: int = Field(default=20_000, gt=0)
    max_length: int = Field(default=1000, gt=0)


class EASE(Model):
    """Score = sum over the distinct items of the history of weight(item, item asked for)."""

    kind = "ease"
    paper = "Steck 2019, arXiv:1905.03375"
    learns = False
    item_weights: Tensor

    def __init__(self, config: EASEConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.config = config
        if n_items > config.max_items:
            to_fit = 3 * getattr(torch, config.precision).itemsize * n_items**2
            raise ValueError(
                f"ease needs a weight for every pair of items and takes up to max_items = {config.max_items:,}, "
                f"got {n_items:,} ({n_items**2 * 4 / 1e9:.1f} GB, and {to_fit / 1e9:.1f} GB to fit it); "
                "leave rare items out, raise max_items, or use item_knn"
            )
        self.register_buffer("item_weights", torch.zeros(n_items + 1, n_items + 1))

    def observe(self, histories: Histories) -> None:
        """Count in how many histories two items meet, and solve for the weights."""
        super().observe(histories)
        gram = torch.empty(self.n_items + 1, self.n_items + 1, dtype=getattr(torch, self.config.precision))
        for rows, together in co_occurrences(histories):
            gram[rows] = together.to(gram)
        gram.diagonal().add_(self.config.regularization)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram))
        del gram  # as large as the catalogue is allowed to be
        weights = inverse.mT.div_(-inverse.diagonal().clone())  # symmetric, and solved by columns: read by rows
        weights.fill_diagonal_(0)
        self.item_weights = weights.to(self.item_weights).contiguous()

    def encode(self, batch: Batch) -> "LinearEncoding":
        return LinearEncoding(batch.items, last_occurrences(batch.items), self.item_weights)

    def item_bias(self) -> Tensor:
        return self.item_weights.new_zeros(self.n_items + 1)


@dataclass(frozen=True, eq=False)
class LinearEncoding:
    """Histories in which each distinct item counts once, where it stands last.

    Attributes:
        history: (B, L).
        counted: (B, L) bool.
        item_weights: row: item of the history, column: item asked for, (N, N).
    """

    history: Tensor
    counted: Tensor
    item_weights: Tensor
    weights: Tensor | None = None

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        if items is not None:
            return self.contributions(items).sum(1)
        counted = self.counted.to(self.item_weights)
        return F.embedding_bag(self.history, self.item_weights, mode="sum", per_sample_weights=counted)

    def contributions(self, items: Tensor) -> Tensor:
        """Weight of each event for each item; 0 where the same item comes again later."""
        weights = self.item_weights[self.history[:, :, None], items[:, None]]
        return weights * self.counted[..., None]
