"""SASRec: self-attentive sequential recommendation (Kang & McAuley 2018, arXiv:1808.09781).

Causal self-attention over the history, by default full softmax over the catalogue. Two readouts: `pooling`, whose
scores are exact sums over the history, and `last`, the paper's own, which has no exact reasons.
Shapes: B users, L positions, D channels.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnrec.attention import (
    AttentionPooling,
    Core,
    CoreShape,
    ItemValues,
    MultiHeadAttention,
    build_core,
    last_position,
)
from attnrec.dataset import Batch, Histories
from attnrec.layers import Dropout, Linear
from attnrec.losses import base_score
from attnrec.models.base import Model, TrainedConfig
from attnrec.models.catalogue import Catalogue, VectorReading


class SASRecConfig(TrainedConfig):
    """Settings of SASRec.

    `expansion` is the width of the position-wise networks, as a multiple of `dim` (1 in the paper).
    `scores` "auto" means cosines at `temperature` for pooling, plain dot products for last.
    """

    kind: Literal["sasrec"] = "sasrec"
    readout: Literal["pooling", "last"] = "pooling"
    dim: int = Field(default=64, gt=0)
    layers: int = Field(default=2, ge=0)
    heads: int = Field(default=2, gt=0)
    expansion: int = Field(default=4, gt=0)
    pooling_heads: int = Field(default=4, gt=0)
    max_length: int = Field(default=200, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    core: str = "scaled_dot"
    core_settings: dict[str, Any] = Field(default_factory=dict)
    scores: Literal["auto", "cosine", "dot"] = "auto"
    temperature: float = Field(default=0.07, gt=0)
    item_bias: bool = True

    @model_validator(mode="after")
    def _check(self) -> "SASRecConfig":
        for name in ("heads", "pooling_heads"):
            if self.dim % getattr(self, name):
                raise ValueError(f"dim must be a multiple of {name}, got {self.dim} and {getattr(self, name)}")
        self.build_core()  # says what is wrong with core and core_settings before anything starts
        if self.core_settings.get("estimator") == "reinforce":
            raise ValueError(
                "sasrec adds no loss of its core's to its own, which estimator = 'reinforce' needs; "
                "set estimator = 'straight_through'"
            )
        return self

    def build_core(self) -> Core:
        """A new attention core as these settings ask for."""
        shape = CoreShape(heads=self.heads, channels=self.dim // self.heads, max_length=self.max_length)
        return build_core(self.core, shape, self.core_settings)

    @property
    def cosine(self) -> bool:
        """Whether scores are cosines."""
        return self.scores == "cosine" or (self.scores == "auto" and self.readout == "pooling")


class SASRec(Model):
    """Self-attention over the history, then a readout."""

    kind = "sasrec"
    paper = "Kang & McAuley 2018, arXiv:1808.09781"
    reasons = "exact with readout = pooling (default), none with last"
    needs_order = True

    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.config = config
        temperature = config.temperature if config.cosine else None
        start = base_score(config, n_items)
        self.catalogue = Catalogue(
            n_items, config.dim, temperature=temperature, item_bias=config.item_bias, base_score=start
        )
        self.encoder = SelfAttentionEncoder(config)
        pools = config.readout == "pooling"
        self.pooling = AttentionPooling(config.dim, heads=config.pooling_heads) if pools else None
        self.values = ItemValues(config.dim, dropout=config.dropout) if pools else None

    @property
    def exact_reasons(self) -> bool:
        return self.pooling is not None

    @property
    def description(self) -> str:
        return f"sasrec-{self.config.readout}-d{self.config.dim}-L{self.config.max_length}"

    def observe(self, histories: Histories) -> None:
        super().observe(histories)
        self.catalogue.observe(histories, config=self.config)

    def loss(self, batch: Batch) -> Tensor:
        """Next item at every real position."""
        assert batch.targets is not None, "a training batch has targets"
        vectors = self.catalogue(batch.items)
        states = self.encoder(vectors, times=batch.times)
        if self.pooling is not None and self.values is not None:
            states = self.pooling.everywhere(states, self.values(vectors))
        asked = batch.targets > 0
        table = self.catalogue.embedding.weight
        return self.catalogue.loss(states[asked], batch.targets[asked], table=table, config=self.config)

    def read(self, batch: Batch) -> VectorReading:
        """Encode the histories; users without events become zero vectors, scored by item bias alone."""
        vectors, table = self.catalogue(batch.items), self.catalogue.embedding.weight
        if self.pooling is None or self.values is None:
            users = (
                self.encoder.at_end(vectors, lengths=batch.lengths, times=batch.times) * (batch.lengths > 0)[:, None]
            )
            return VectorReading(self.catalogue, table, users, None, None, why_none=WHY_NONE)
        several = batch.items.numel() > len(table)  # then each item's value is computed once
        values = self.values(table)[batch.items] if several else self.values(vectors)
        states = self.encoder(vectors, times=batch.times)
        pooled = self.pooling.at_end(states, values, lengths=batch.lengths)
        assert pooled.weights is not None, "pooling always has weights"
        weights = pooled.weights.mean(1).squeeze(1)
        return VectorReading(self.catalogue, table, pooled.output.sum(1), pooled.output, weights)

    def item_bias(self) -> Tensor:
        return self.catalogue.biases()

    def item_vectors(self) -> Tensor:
        return self.catalogue.embedding.weight


WHY_NONE = (
    "contributions need a readout that sums over the history, got readout='last', whose state mixes all events; "
    "train with readout='pooling'"
)


class SelfAttentionEncoder(nn.Module):
    """Pre-norm transformer blocks with learned positions; causal, so padding on the right changes nothing."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_length, config.dim)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.dim)

    def forward(self, vectors: Tensor, *, times: Tensor | None = None) -> Tensor:
        """(B, L, D) item vectors and their Unix seconds (B, L) -> (B, L, D) states, each of what came up to it."""
        x = self._placed(vectors)
        for block in self.blocks:
            x = block(x, times=times)
        return self.norm_out(x)

    def at_end(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, L, D) item vectors -> (B, D), what `forward` gives at the last real position."""
        last = self.blocks[-1] if len(self.blocks) else None
        if not (isinstance(last, Block) and last.attention.core.one_query):
            return last_position(self(vectors, times=times), lengths).squeeze(1)
        x = self._placed(vectors)
        for block in self.blocks[:-1]:
            x = block(x, times=times)
        return self.norm_out(last.at_end(x, lengths=lengths)).squeeze(1)

    def _placed(self, vectors: Tensor) -> Tensor:
        places = torch.arange(vectors.shape[1], device=vectors.device)
        return self.dropout(vectors + self.positions(places))


class Block(nn.Module):
    """Attention and a position-wise network, each behind a norm and around a residual."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.dim)
        self.attention = MultiHeadAttention(config.dim, heads=config.heads, core=config.build_core())
        self.norm_network = nn.LayerNorm(config.dim)
        self.network = nn.Sequential(
            Linear(config.dim, config.expansion * config.dim),
            nn.GELU(),
            Dropout(config.dropout),
            Linear(config.expansion * config.dim, config.dim),
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, *, times: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.dropout(self.attention(self.norm_attention(x), causal=True, times=times).output)
        return x + self.dropout(self.network(self.norm_network(x)))

    def at_end(self, x: Tensor, *, lengths: Tensor) -> Tensor:
        """(B, L, D) -> (B, 1, D), what `forward` gives at the last real position."""
        end = last_position(x, lengths)
        end = end + self.dropout(self.attention.at_end(self.norm_attention(x), lengths=lengths))
        return end + self.dropout(self.network(self.norm_network(end)))
