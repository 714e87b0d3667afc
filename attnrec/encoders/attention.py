"""Self-attention blocks with any kernel, after SASRec (Kang & McAuley 2018, arXiv:1808.09781) and BERT4Rec
(Sun et al. 2019, arXiv:1904.06690).

Causal as in SASRec, or bidirectional as in BERT4Rec. The blocks are pre-norm with GELU in both cases, which trains
without the warm-up of BERT4Rec's post-norm blocks.
Shapes: B users, L positions, D channels, H heads.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnrec.attention import (
    AttentionKernel,
    AttentionOutput,
    KernelShape,
    MultiHeadAttention,
    build_kernel,
    last_position,
)
from attnrec.config import Config
from attnrec.encoders.encoder import Encoder, real_positions, without_padding
from attnrec.layers import Dropout, Linear

PositionKind = Literal["learned", "rotary", "relative", "none"]


class AttentionSettings(Config):
    """Settings of encoders with attention.

    Attributes:
        layers, heads: number of layers, and of heads per layer.
        expansion: width of the position-wise networks as a multiple of D (1 in SASRec's paper, 4 in BERT4Rec's).
        attention: the kernel, a name in `attnrec.attention.ATTENTION_KERNELS`.
        attention_settings: settings of the kernel.
        positions: "learned" embeddings, "rotary" embeddings of queries and keys, "relative" (a learned bias by
            distance, for attention = "scaled_dot" only; hstu has its own), or "none".
    """

    layers: int = Field(default=2, ge=0)
    heads: int = Field(default=2, gt=0)
    expansion: int = Field(default=4, gt=0)
    attention: str = "scaled_dot"
    attention_settings: dict[str, Any] = Field(default_factory=dict)
    positions: PositionKind = "learned"

    @model_validator(mode="after")
    def _check_positions(self) -> "AttentionSettings":
        if self.positions == "relative" and self.attention != "scaled_dot":
            raise ValueError(
                f"positions = 'relative' needs attention = 'scaled_dot', got attention = {self.attention!r}; "
                "set positions = 'rotary' or 'learned' (hstu has its own relative positions)"
            )
        return self

    def build_kernel(self, dim: int, *, max_length: int, causal: bool) -> AttentionKernel:
        """Build the kernel of these settings.

        Raises:
            ValueError: if heads does not divide dim, and see `attention.build_kernel`.
        """
        if dim % self.heads:
            raise ValueError(
                f"heads must divide dim, got heads={self.heads} and dim={dim}; choose dim as a multiple of heads"
            )
        shape = KernelShape(heads=self.heads, channels=dim // self.heads, max_length=max_length, causal=causal)
        return build_kernel(
            "relative" if self.positions == "relative" else self.attention, shape, self.attention_settings
        )


class PositionEmbedding(nn.Module):
    """Add learned position embeddings, if any, and apply dropout."""

    def __init__(self, dim: int, *, max_length: int, dropout: float, learned: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_length, dim) if learned else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = Dropout(dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        if self.embedding is not None:
            vectors = vectors + self.embedding(torch.arange(vectors.shape[1], device=vectors.device))
        return self.dropout(vectors)


class SelfAttention(Encoder):
    """A stack of `Block` with a final layer norm."""

    paper = "Kang & McAuley 2018, arXiv:1808.09781"
    Settings = AttentionSettings

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        dropout: float,
        causal: bool = True,
        settings: AttentionSettings | None = None,
    ) -> None:
        settings = settings or AttentionSettings()
        super().__init__(dim, max_length=max_length, dropout=dropout, causal=causal, settings=settings)
        learned = settings.positions == "learned"
        self.position_embedding = PositionEmbedding(dim, max_length=max_length, dropout=dropout, learned=learned)
        self.blocks = nn.ModuleList(
            Block(dim, settings, settings.build_kernel(dim, max_length=max_length, causal=causal), dropout=dropout)
            for _ in range(settings.layers)
        )
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`."""
        x, allowed = self.position_embedding(vectors), self._allowed(vectors, lengths)
        for block in self.blocks:
            x = block(x, causal=self.causal, allowed=allowed, times=times).output
        return without_padding(self.norm_out(x), lengths)

    def at_last_position(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`. The last block computes the last position alone if its kernel supports that."""
        last = self.blocks[-1] if len(self.blocks) else None
        if not (self.causal and isinstance(last, Block) and last.attention.kernel.supports_single_query):
            return super().at_last_position(vectors, lengths=lengths, times=times)
        x = self.position_embedding(vectors)
        for block in self.blocks[:-1]:
            x = block(x, causal=True, times=times).output
        return self.norm_out(last.at_last_position(x, lengths=lengths)).squeeze(1)

    def attention_weights(
        self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None
    ) -> list[Tensor | None]:
        """See `encoder.Encoder`."""
        x, allowed, layers = self.position_embedding(vectors), self._allowed(vectors, lengths), []
        for block in self.blocks:
            assert isinstance(block, Block), "every module of the stack is a Block"
            attended = block(x, causal=self.causal, allowed=allowed, times=times, need_weights=True)
            x = attended.output
            layers.append(attended.weights if block.attention.kernel.weights_kind == "normalised" else None)
        return layers

    def _allowed(self, vectors: Tensor, lengths: Tensor) -> Tensor | None:
        """Return the mask; a causal encoder needs none, because padding comes after all events."""
        return None if self.causal else real_positions(vectors, lengths)[:, None, None]


class Block(nn.Module):
    """Attention and a position-wise network, each with a layer norm before it and a residual connection."""

    def __init__(self, dim: int, settings: AttentionSettings, kernel: AttentionKernel, *, dropout: float) -> None:
        super().__init__()
        width, rotary = settings.expansion * dim, settings.positions == "rotary"
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads=settings.heads, kernel=kernel, rotary=rotary)
        self.norm_network = nn.LayerNorm(dim)
        self.network = nn.Sequential(Linear(dim, width), nn.GELU(), Dropout(dropout), Linear(width, dim))
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool,
        allowed: Tensor | None = None,
        times: Tensor | None = None,
        need_weights: bool = False,
    ) -> AttentionOutput:
        """Map (B, L, D) to (B, L, D), with the weights (B, H, L, L) if requested."""
        attended = self.attention(
            self.norm_attention(x), causal=causal, allowed=allowed, times=times, need_weights=need_weights
        )
        x = x + self.dropout(attended.output)
        return AttentionOutput(x + self.dropout(self.network(self.norm_network(x))), attended.weights)

    def at_last_position(self, x: Tensor, *, lengths: Tensor) -> Tensor:
        """Return the output of causal `forward` at the last real position, (B, L, D) -> (B, 1, D)."""
        end = last_position(x, lengths)
        end = end + self.dropout(self.attention.at_last_position(self.norm_attention(x), lengths=lengths))
        return end + self.dropout(self.network(self.norm_network(end)))
