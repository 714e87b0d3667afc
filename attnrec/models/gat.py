"""GAT: items enriched by attention over a graph, pooled by attention over the user's items.

By default over the bipartite graph, item -> user -> item (GATv2: Brody, Alon & Yahav 2022, arXiv:2105.14491), where a
user is the mean of their items and never a row of a table. A user's vector is attention over the enriched vectors of
their own items, so scores are exact sums over the history. Order does not matter.
Shapes: B users, L positions, D channels, N = n_items + 1 item rows.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnrec.attention import ItemValues
from attnrec.attention.multi_head import from_heads, to_heads
from attnrec.dataset import Batch, Histories
from attnrec.losses import base_score
from attnrec.models.base import Model, TrainedConfig
from attnrec.models.graph.item_encoder import ItemGraphEncoder
from attnrec.models.graph.neighbour_shares import NeighbourShares
from attnrec.models.graph.settings import ItemGraphSettings, Relation
from attnrec.models.graph.shares import evaluating
from attnrec.models.item_scores import ItemScorer, VectorEncoding


class GATConfig(ItemGraphSettings, TrainedConfig):
    """Settings of GAT: those of its graph and of what it is trained on, and these.

    Attributes:
        relations: what joins items, see `ItemGraphSettings.names`: "bipartite" (users), "items" that the same users
            had, "transitions" (for logs with an order); several are added up.
        heads, dropout: of the graph; dropout also of the events' values.
        pooling_heads: of the attention over the history.
        temperature: of the cosines that scores are.
        item_bias: whether items have a learned bias.
    """

    kind: Literal["gat"] = "gat"
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
                raise ValueError(f"dim must be a multiple of {name}, got {self.dim} and {getattr(self, name)}")
        with torch.device("meta"):  # says what is wrong before anything starts
            ItemGraphEncoder(self, self.dim, relations=self.relations)
        return self


class GAT(Model):
    """Graph attention over items, attention pooling over the history."""

    kind = "gat"
    paper = "Brody et al. 2022, arXiv:2105.14491; Velickovic et al. 2018, arXiv:1710.10903"
    slices = False  # every call enriches the catalogue over the graph
    table: Tensor

    def __init__(self, config: GATConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.config = config
        start, temperature = base_score(config, n_items), config.temperature
        self.item_scorer = ItemScorer(
            n_items, config.dim, temperature=temperature, item_bias=config.item_bias, base_score=start
        )
        self.graph = ItemGraphEncoder(config, config.dim, relations=config.relations)
        self.norm = nn.LayerNorm(config.dim)
        self.values = ItemValues(config.dim, dropout=config.dropout)
        self.pooling = SetPooling(config.dim, heads=config.pooling_heads)
        self.register_buffer("table", torch.zeros(n_items + 1, config.dim))

    @property
    def description(self) -> str:
        config = self.config
        other = [*(config.relations if config.relations != ("bipartite",) else ()), *config.attributes]
        return "-".join(["gat", *other, f"d{config.dim}", f"h{config.heads}"])

    @property
    def has_graph(self) -> bool:
        return True

    def graphs(self) -> dict[str, Any]:
        return self.graph.made_of

    def neighbour_shares(self, items: Tensor) -> dict[str, NeighbourShares]:
        with evaluating(self):
            return self.graph.neighbour_shares(self.item_scorer.embedding.weight, items)

    def observe(self, histories: Histories) -> None:
        """Keep the training graph; it is needed for training only, scoring reads the finished item table."""
        super().observe(histories)
        self.item_scorer.observe(histories, config=self.config)
        self.graph.observe(histories)
        self.rankable = self.rankable | self.graph.described().to(self.rankable.device)

    def refresh(self) -> None:
        """Enrich all items over the whole graph, once, into the table that scoring reads."""
        if self.graph.observed:
            was_training = self.training
            self.eval()
            with torch.no_grad():
                self.table = self.graph(self.item_scorer.embedding.weight)
            self.train(was_training)

    def loss(self, batch: Batch) -> Tensor:
        """Each item of the history from all the others."""
        table = self.graph(self.item_scorer.embedding.weight)
        vectors = F.embedding(batch.items, table, padding_idx=0)
        users = self.pooling.leave_one_out(self.norm(vectors), self.values(vectors), lengths=batch.lengths)
        asked = batch.real & (batch.lengths > 1)[:, None]
        return self.item_scorer.loss(users[asked], batch.items[asked], table=table, config=self.config)

    def encode(self, batch: Batch) -> VectorEncoding:
        """Pool the histories; users without events become zero vectors, scored by item bias alone."""
        return self.read_vectors(batch, self.table[batch.items])

    def read_vectors(self, batch: Batch, vectors: Tensor) -> VectorEncoding:
        """Pool histories whose events have the item vectors given, (B, L, D), whatever items they are."""
        weights = self.pooling.weights(self.norm(vectors), lengths=batch.lengths)
        parts = self.pooling.parts(weights, self.values(vectors))
        return VectorEncoding(self.item_scorer, self.table, parts.sum(1), parts, weights.mean(1))

    def item_bias(self) -> Tensor:
        return self.item_scorer.biases()

    def item_vectors(self) -> Tensor:
        return self.table


class SetPooling(nn.Module):
    """Attention with one learned query per head over a set (Yang et al. 2016, the HAN's word attention).

    Shapes: B users, L events, H heads, C = dim / H channels per head.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.energy = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, heads))

    def weights(self, states: Tensor, *, lengths: Tensor) -> Tensor:
        """Shares of each event, (B, H, L), 0 at padding and for users without events."""
        return self._exponentials(states, lengths)[1]

    def parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """What each event adds to the user, (B, L, dim), at shares (B, H, L) and values (B, L, dim)."""
        return from_heads(weights[..., None] * to_heads(values, self.heads))

    def leave_one_out(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Tensor:
        """At each position the pooled vector of all other events: (B, L, dim)."""
        exponentials, _ = self._exponentials(states, lengths)
        exponentials = exponentials.double()  # what is left beside e^20 must survive the subtraction
        weighted = exponentials[..., None] * to_heads(values, self.heads)  # (B, H, L, C)
        others = weighted.sum(2, keepdim=True) - weighted
        mass = exponentials.sum(2, keepdim=True) - exponentials
        return from_heads((others / mass.clamp(min=1e-9)[..., None]).to(values.dtype))

    def _exponentials(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        real = (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[:, None]
        energy = self.energy(states).mT.masked_fill(~real, torch.finfo(states.dtype).min)
        # exponentials bounded below by e^-20 of the largest, so that leaving one out never divides by ~0
        exponentials = (energy - energy.amax(2, keepdim=True).detach()).clamp(min=-20).exp() * real
        return exponentials, exponentials / exponentials.sum(2, keepdim=True).clamp(min=1e-9)
