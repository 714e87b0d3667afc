"""Popularity: the same items for all users, by number of training events. The baseline that models must exceed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attnrec.dataset import Batch, Histories
from attnrec.models.base import Model, ModelConfig


class PopularityConfig(ModelConfig):
    """Settings of Popularity: those of every model."""

    kind: str = "popularity"


class Popularity(Model):
    """Score = log(1 + number of training events); it does not depend on the history, so contributions are 0."""

    kind = "popularity"
    paper = "baseline"
    trainable = False
    log_counts: Tensor

    def __init__(self, config: PopularityConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("log_counts", torch.zeros(n_items + 1))

    def observe(self, histories: Histories) -> None:
        super().observe(histories)
        self.log_counts = torch.from_numpy(histories.item_counts()).log1p().float()

    def encode(self, batch: Batch) -> "PopularityEncoding":
        return PopularityEncoding(self.log_counts, batch.items)

    def item_bias(self) -> Tensor:
        return self.log_counts


@dataclass(frozen=True, eq=False)
class PopularityEncoding:
    """Histories that have no effect on the scores."""

    log_counts: Tensor
    history: Tensor
    weights: Tensor | None = None

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        if items is None:
            return self.log_counts.expand(len(self.history), -1)
        return self.log_counts[items]

    def contributions(self, items: Tensor) -> Tensor:
        """Return zeros: the score does not depend on the history."""
        return self.log_counts.new_zeros(*self.history.shape, items.shape[1])
