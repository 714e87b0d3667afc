"""SASRec: self-attentive sequential recommendation (Kang & McAuley 2018, arXiv:1808.09781).

Causal self-attention over the history, full softmax over the catalogue. Two readouts: `pooling`, whose
scores are exact sums over the history, and `last`, the paper's own, which has no exact reasons.
Shapes: B users, L positions, D channels.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnrec.attention import AttentionPooling, Core, CoreShape, ItemValues, MultiHeadAttention, build_core
from attnrec.dataset import Batch
from attnrec.models.base import Model, ModelConfig
from attnrec.models.catalogue import Catalogue, VectorReading


class SASRecConfig(ModelConfig):
    """Settings of SASRec.

    `scores` "auto" means cosines at `temperature` for pooling, plain dot products for last.
    `n_negatives` None trains on the full softmax, a number on that many shared negatives.
    """

    kind: Literal["sasrec"] = "sasrec"
    readout: Literal["pooling", "last"] = "pooling"
    dim: int = Field(default=64, gt=0)
    layers: int = Field(default=2, ge=0)
    heads: int = Field(default=2, gt=0)
    pooling_heads: int = Field(default=4, gt=0)
    max_length: int = Field(default=200, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    core: str = "scaled_dot"
    core_settings: dict[str, Any] = {}
    scores: Literal["auto", "cosine", "dot"] = "auto"
    temperature: float = Field(default=0.07, gt=0)
    item_bias: bool = True
    n_negatives: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "SASRecConfig":
        for name in ("heads", "pooling_heads"):
            if self.dim % getattr(self, name):
                raise ValueError(f"dim must be a multiple of {name}, got {self.dim} and {getattr(self, name)}")
        self.build_core()  # says what is wrong with core and core_settings before anything starts
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
        self.catalogue = Catalogue(n_items, config.dim, temperature=temperature, item_bias=config.item_bias)
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

    def loss(self, batch: Batch) -> Tensor:
        """Next item at every real position, full or sampled softmax."""
        assert batch.targets is not None, "a training batch has targets"
        vectors = self.catalogue(batch.items)
        states = self.encoder(vectors)
        if self.pooling is not None and self.values is not None:
            states = self.pooling.everywhere(states, self.values(vectors))
        asked = batch.targets > 0
        return self.catalogue.loss(
            states[asked],
            batch.targets[asked],
            table=self.catalogue.embedding.weight,
            n_negatives=self.config.n_negatives,
        )

    def read(self, batch: Batch) -> VectorReading:
        """Encode the histories; users without events become zero vectors, scored by item bias alone."""
        vectors = self.catalogue(batch.items)
        states = self.encoder(vectors)
        table = self.catalogue.embedding.weight
        if self.pooling is None or self.values is None:
            last = (batch.lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[-1])
            users = states.gather(1, last).squeeze(1) * (batch.lengths > 0)[:, None]
            return VectorReading(self.catalogue, table, users, None, None, why_none=WHY_NONE)
        pooled = self.pooling.at_end(states, self.values(vectors), lengths=batch.lengths)
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
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, L, D) item vectors -> (B, L, D) states, each of what came up to it."""
        places = torch.arange(vectors.shape[1], device=vectors.device)
        x = self.dropout(vectors + self.positions(places))
        for block in self.blocks:
            x = block(x)
        return self.norm_out(x)


class Block(nn.Module):
    """Attention and a position-wise network, each behind a norm and around a residual."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.dim)
        self.attention = MultiHeadAttention(config.dim, heads=config.heads, core=config.build_core())
        self.norm_network = nn.LayerNorm(config.dim)
        self.network = nn.Sequential(
            nn.Linear(config.dim, 4 * config.dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(4 * config.dim, config.dim),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.dropout(self.attention(self.norm_attention(x), causal=True).output)
        return x + self.dropout(self.network(self.norm_network(x)))
