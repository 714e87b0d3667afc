"""GAT: item vectors enriched by graph attention, and attention pooling over the user's items.

By default the graph is bipartite, item -> user -> item (GATv2: Brody, Alon & Yahav 2022, arXiv:2105.14491). A user node
is the mean of its items and has no embedding. The user vector is an attention-weighted sum of the enriched vectors of
the user's items, so scores are exact sums over the history. The order of events is not used.
Shapes: B users, L positions, D channels, N = n_items + 1 item rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnrec.attention import ItemValues
from attnrec.attention.multi_head import from_heads, to_heads
from attnrec.dataset import Batch, Features, Histories
from attnrec.losses import base_score
from attnrec.models.attention_weights import ReadoutWeights
from attnrec.models.base import Model, TrainedConfig
from attnrec.models.graph.edge_weights import evaluating
from attnrec.models.graph.item_encoder import ItemGraphEncoder
from attnrec.models.graph.neighbour_weights import NeighbourWeights
from attnrec.models.graph.settings import ItemGraphSettings, Relation
from attnrec.models.head_weights import Head, readout_head_weights
from attnrec.models.item_scores import ItemScorer, VectorEncoding


class GATConfig(ItemGraphSettings, TrainedConfig):
    """Settings of GAT, in addition to those of the graph and of the loss.

    Attributes:
        relations: edges between items: "bipartite" (through users), "items" (items with common users), "transitions"
            (consecutive events, for ordered logs); several are summed.
        heads: number of heads of the graph attention.
        dropout: dropout rate of the graph attention, and of the values in the pooling.
        pooling_heads: number of heads of the attention pooling over the history.
        temperature: scores are cosines divided by it.
        item_bias: whether items have a learned bias.
    """

    kind: str = "gat"
    relations: tuple[Relation, ...] = ("bipartite",)
    dim: int = Field(default=64, gt=0)
    pooling_heads: int = Field(default=4, gt=0)
    max_length: int = Field(default=200, gt=0)
    neighbours: int | None = Field(default=None, gt=0)
    edges_per_step: int | None = Field(default=100_000, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    temperature: float = Field(default=0.07, gt=0)
    item_bias: bool = True

    @model_validator(mode="after")
    def _check(self) -> "GATConfig":
        for name in ("heads", "pooling_heads"):
            if self.dim % getattr(self, name):
                raise ValueError(
                    f"{name} must divide dim, got {name}={getattr(self, name)} and dim={self.dim}; change one"
                )
        with torch.device("meta"):  # raises for invalid settings, before any data is read
            ItemGraphEncoder(self, self.dim, relations=self.relations)
        return self


class GAT(Model):
    """Graph attention over items, attention pooling over the history."""

    kind = "gat"
    paper = "Brody et al. 2022, arXiv:2105.14491; Velickovic et al. 2018, arXiv:1710.10903"
    supports_micro_batches = False  # every call of loss computes the graph attention of all items
    table: Tensor

    def __init__(self, config: GATConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.config = config
        self.item_scorer = ItemScorer(
            n_items,
            config.dim,
            temperature=config.temperature,
            item_bias=config.item_bias,
            base_score=base_score(config, n_items),
        )
        self.graph = ItemGraphEncoder(config, config.dim, relations=config.relations)
        self.norm = nn.LayerNorm(config.dim)
        self.values = ItemValues(config.dim, dropout=config.dropout)
        self.pooling = SetPooling(config.dim, heads=config.pooling_heads)
        self.register_buffer("table", torch.zeros(n_items + 1, config.dim))

    @classmethod
    def from_config(
        cls, config: Any, n_items: int, *, features: Features | None = None, fit_features: Features | None = None
    ) -> "GAT":
        del fit_features  # attributes of the graph have no learned weights per category
        model = cls(config, n_items)
        if features is not None:
            model.graph.set_attributes(features)
        return model

    @property
    def description(self) -> str:
        config = self.config
        relations = [*(config.relations if config.relations != ("bipartite",) else ()), *config.attributes]
        return "-".join(["gat", *relations, f"d{config.dim}", f"h{config.heads}"])

    @property
    def has_graph(self) -> bool:
        return True

    def graph_sources(self) -> dict[str, Any]:
        return self.graph.sources

    def neighbour_weights(self, items: Tensor) -> dict[str, NeighbourWeights]:
        with evaluating(self):
            return self.graph.neighbour_weights(self.item_scorer.embedding.weight, items)

    def observe(self, histories: Histories) -> None:
        """Build the training graph. It is needed for training only; scoring reads the finished item table."""
        super().observe(histories)
        self.item_scorer.observe(histories, config=self.config)
        self.graph.observe(histories)
        self.rankable = self.rankable | self.graph.has_attributes().to(self.rankable.device)

    def refresh(self) -> None:
        """Compute the item table that scoring reads, by graph attention over the whole graph."""
        if self.graph.observed:
            was_training = self.training
            self.eval()
            with torch.no_grad():
                self.table = self.graph(self.item_scorer.embedding.weight)
            self.train(was_training)

    def loss(self, batch: Batch) -> Tensor:
        """See `Model.loss`; each item of the history is predicted from all others."""
        table = self.graph(self.item_scorer.embedding.weight)
        vectors = F.embedding(batch.items, table, padding_idx=0)
        users = self.pooling.leave_one_out(self.norm(vectors), self.values(vectors), lengths=batch.lengths)
        has_target = batch.real & (batch.lengths > 1)[:, None]
        return self.item_scorer.loss(users[has_target], batch.items[has_target], table=table, config=self.config)

    def encode(self, batch: Batch) -> VectorEncoding:
        """See `Model.encode`; users without events get zero vectors, so their scores are the item biases."""
        return self.encode_vectors(batch, self.table[batch.items])

    def encode_vectors(self, batch: Batch, vectors: Tensor) -> VectorEncoding:
        """See `Model.encode_vectors`."""
        weights = self.pooling.weights(self.norm(vectors), lengths=batch.lengths)
        parts = self.pooling.parts(weights, self.values(vectors))
        return VectorEncoding(self.item_scorer, self.table, parts.sum(1), parts, weights.mean(1))

    def readout_weights(self, batch: Batch) -> ReadoutWeights:
        vectors, scorer, table = self.table[batch.items], self.item_scorer, self.table
        values = self.values(vectors)
        return ReadoutWeights(
            self.pooling.weights(self.norm(vectors), lengths=batch.lengths),
            parts=lambda weights: self.pooling.parts(weights, values),
            scores=lambda users, items=None: VectorEncoding(scorer, table, users, None, None).scores(items),
        )

    def head_weights(self) -> dict[Head, list[Tensor]]:
        """See `Model.head_weights`: of the pooling alone; scoring reads the item table, not the heads of the graph."""
        return readout_head_weights(self.values, self.pooling.heads)

    def item_bias(self) -> Tensor:
        return self.item_scorer.biases()

    def item_vectors(self) -> Tensor:
        return self.table


class SetPooling(nn.Module):
    """Attention pooling over a set with one learned query per head (word attention of HAN, Yang et al. 2016).

    Shapes: B users, L events, H heads, C = dim / H channels per head.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.logits = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, heads))

    def weights(self, states: Tensor, *, lengths: Tensor) -> Tensor:
        """Return the attention weight of each event, (B, H, L); 0 at padding and for users without events."""
        return self._exponentials(states, lengths)[1]

    def parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return each event's part of the user vector, (B, L, dim), for weights (B, H, L) and values (B, L, dim)."""
        return from_heads(weights[..., None] * to_heads(values, self.heads))

    def leave_one_out(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Tensor:
        """Return, at each position, the pooled vector of all other events, (B, L, dim)."""
        exponentials, _ = self._exponentials(states, lengths)
        exponentials = exponentials.double()  # subtracting a weight of e^20 needs more digits than float32 has
        weighted = exponentials[..., None] * to_heads(values, self.heads)  # (B, H, L, C)
        others = weighted.sum(2, keepdim=True) - weighted
        mass = exponentials.sum(2, keepdim=True) - exponentials
        return from_heads((others / mass.clamp(min=1e-9)[..., None]).to(values.dtype))

    def _exponentials(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        real = (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[:, None]
        logits = self.logits(states).mT.masked_fill(~real, torch.finfo(states.dtype).min)
        # exponentials bounded below by e^-20 of the largest, so that leaving one out never divides by ~0
        exponentials = (logits - logits.amax(2, keepdim=True).detach()).clamp(min=-20).exp() * real
        return exponentials, exponentials / exponentials.sum(2, keepdim=True).clamp(min=1e-9)
