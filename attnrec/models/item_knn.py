"""Item-kNN: items similar to those in the history (Sarwar et al. 2001, doi:10.1145/371920.372071).

Cosine similarity of the items' user sets, with shrinkage; each item keeps its k nearest neighbours.
Shapes: B users, L positions, n requested items, N = n_items + 1 item rows, k neighbours.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from attnrec.dataset import Batch, Histories, user_item_edges
from attnrec.models.base import Model, ModelConfig
from attnrec.models.distinct_items import co_occurrences


class ItemKNNConfig(ModelConfig):
    """Settings of item-kNN.

    Attributes:
        n_neighbours: neighbours per item.
        shrinkage: added to the denominator of the cosine, in events.
        max_length: the model uses the last `max_length` events of a history.
    """

    kind: str = "item_knn"
    n_neighbours: int = Field(default=100, gt=0)
    shrinkage: float = Field(default=10.0, ge=0)
    max_length: int = Field(default=1000, gt=0)


class ItemKNN(Model):
    """Score = sum over the history of similarity(event, item)."""

    kind = "item_knn"
    paper = "Sarwar et al. 2001, doi:10.1145/371920.372071"
    trainable = False
    neighbours: Tensor
    similarities: Tensor

    def __init__(self, config: ItemKNNConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        k = min(config.n_neighbours, n_items)
        self.register_buffer("neighbours", torch.zeros(n_items + 1, k, dtype=torch.long))
        self.register_buffer("similarities", torch.zeros(n_items + 1, k))

    def observe(self, histories: Histories) -> None:
        """Count in how many histories two items co-occur, and keep the k most similar items of each."""
        super().observe(histories)
        counts = torch.from_numpy(user_item_edges(histories).items).bincount(minlength=self.n_items + 1).float()
        for rows, common_users in co_occurrences(histories):
            norms = (counts[rows, None] * counts).sqrt() + self.config.shrinkage
            similarities = common_users / norms.clamp(min=1)
            similarities[torch.arange(len(rows)), rows] = 0
            best = similarities.topk(self.neighbours.shape[1], dim=1)
            self.neighbours[rows], self.similarities[rows] = best.indices, best.values

    def encode(self, batch: Batch) -> "NeighbourEncoding":
        return NeighbourEncoding(batch.items, self.neighbours, self.similarities)

    def item_bias(self) -> Tensor:
        return self.similarities.new_zeros(self.n_items + 1)


@dataclass(frozen=True, eq=False)
class NeighbourEncoding:
    """Histories, and the neighbours of all items.

    Attributes:
        history: (B, L).
        neighbours: k neighbours of each item, (N, k).
        similarities: to these neighbours, (N, k).
    """

    history: Tensor
    neighbours: Tensor
    similarities: Tensor
    weights: Tensor | None = None

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        if items is not None:
            return self.contributions(items).sum(1)
        totals = self.similarities.new_zeros(len(self.history), len(self.neighbours))
        neighbours, similarities = self.neighbours[self.history], self.similarities[self.history]
        return totals.scatter_add_(1, neighbours.flatten(1), similarities.flatten(1))

    def contributions(self, items: Tensor) -> Tensor:
        """Return the similarity of each event to each item; 0 for items that are not among its neighbours."""
        per_item = [
            (self.similarities[self.history] * (self.neighbours[self.history] == item[:, None, None])).sum(-1)
            for item in items.unbind(1)
        ]
        return torch.stack(per_item, dim=-1)
