"""EASE: linear autoencoder over items, with weights in closed form (Steck 2019, arXiv:1905.03375).

B = I - P / diag(P) with P = (X'X + regularization * I)^-1 and X the binary user-item matrix. The diagonal of B is zero,
so an item does not predict itself.
Shapes: B users, L positions, n requested items, N = n_items + 1 item rows.
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
        regularization: added to the diagonal of the item-item count matrix, in events.
        precision: number type of the solver; "float32" needs half the memory.
        max_items: largest catalogue that is accepted; memory grows with its square.
        max_length: the model uses the last `max_length` events of a history.
    """

    kind: str = "ease"
    regularization: float = Field(default=500.0, gt=0)
    precision: Literal["float64", "float32"] = "float64"
    max_items: int = Field(default=20_000, gt=0)
    max_length: int = Field(default=1000, gt=0)


class EASE(Model):
    """Score = sum of weight(history item, candidate item) over the distinct items of the history."""

    kind = "ease"
    paper = "Steck 2019, arXiv:1905.03375"
    trainable = False
    item_weights: Tensor

    def __init__(self, config: EASEConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.config = config
        if n_items > config.max_items:
            fit_bytes = 3 * getattr(torch, config.precision).itemsize * n_items**2
            raise ValueError(
                f"ease has a weight for every pair of items and accepts up to max_items = {config.max_items:,} items, "
                f"got {n_items:,} ({n_items**2 * 4 / 1e9:.1f} GB of weights, {fit_bytes / 1e9:.1f} GB to fit them); "
                "filter rare items, increase max_items, or use item_knn"
            )
        self.register_buffer("item_weights", torch.zeros(n_items + 1, n_items + 1))

    def observe(self, histories: Histories) -> None:
        """Count in how many histories two items co-occur, and solve for the weights."""
        super().observe(histories)
        gram = torch.empty(self.n_items + 1, self.n_items + 1, dtype=getattr(torch, self.config.precision))
        for rows, counts in co_occurrences(histories):
            gram[rows] = counts.to(gram)
        gram.diagonal().add_(self.config.regularization)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram))
        del gram  # frees N * N values before the next copy
        weights = inverse.mT.div_(-inverse.diagonal().clone())  # the transpose of the symmetric inverse is contiguous
        weights.fill_diagonal_(0)
        self.item_weights = weights.to(self.item_weights).contiguous()

    def encode(self, batch: Batch) -> "LinearEncoding":
        return LinearEncoding(batch.items, last_occurrences(batch.items), self.item_weights)

    def item_bias(self) -> Tensor:
        return self.item_weights.new_zeros(self.n_items + 1)


@dataclass(frozen=True, eq=False)
class LinearEncoding:
    """Histories in which each distinct item counts once, at its last occurrence.

    Attributes:
        history: (B, L).
        counted: last occurrence of each item, (B, L) bool.
        item_weights: history item (rows) by candidate item (columns), (N, N).
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
        """Return the weight of each event for each item; 0 if the same item occurs again later."""
        weights = self.item_weights[self.history[:, :, None], items[:, None]]
        return weights * self.counted[..., None]
