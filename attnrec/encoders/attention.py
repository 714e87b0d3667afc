"""Self-attention blocks around any kernel, after SASRec (Kang & McAuley 2018, arXiv:1808.09781) and BERT4Rec
(Sun et al. 2019, arXiv:1904.06690).

Causal as in the first, or both ways as in the second. Blocks are pre-norm with GELU in both, which trains without
the second's post-norm warm-up.
Shapes: B users, L positions, D channels, H heads.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnrec.attention import Attended, AttentionKernel, KernelShape, MultiHeadAttention, build_kernel, last_position
from attnrec.config import Config
from attnrec.encoders.encoder import Encoder, real_positions, without_padding
from attnrec.layers import Dropout, Linear

Positions = Literal["learned", "rotary", "relative", "none"]


class AttentionSettings(Config):
    """Settings of encoders that attend.

    Attributes:
        layers, heads: of them.
        expansion: width of the position-wise networks, as a multiple of D (1 in SASRec's paper, 4 in BERT4Rec's).
        kernel: the mechanism, a name in `attnrec.attention.ATTENTION_KERNELS`.
        attention_settings: its own.
        positions: "learned" vectors, "rotary" (queries and keys are turned), "relative" (a learned bias by distance,
            for attention = "scaled_dot"; hstu has its own), or "none".
    """

    layers: int = Field(default=2, ge=0)
    heads: int = Field(default=2, gt=0)
    expansion: int = Field(default=4, gt=0)
    attention: str = "scaled_dot"
    attention_settings: dict[str, Any] = Field(default_factory=dict)
    positions: Positions = "learned"

    @model_validator(mode="after")
    def _check_positions(self) -> "AttentionSettings":
        if self.positions == "relative" and self.attention != "scaled_dot":
            raise ValueError(
                f"relative positions are a bias on the scores of attention = 'scaled_dot', got attention = {self.attention!r}; "
                "set positions = 'rotary' or 'learned' (hstu has relative positions of its own)"
            )
        return self

    def build_kernel(self, dim: int, *, max_length: int, causal: bool) -> AttentionKernel:
        """A new kernel as these settings ask for.

        Raises:
            ValueError: when D does not divide by heads, and as `attention.build_kernel`.
        """
        if dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {self.heads}; change one")
        shape = KernelShape(heads=self.heads, channels=dim // self.heads, max_length=max_length, causal=causal)
        return build_kernel(
            "relative" if self.positions == "relative" else self.attention, shape, self.attention_settings
        )


class Placed(nn.Module):
    """Vectors with learned positions where there are any, after dropout."""

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
    """A stack of `Block`, and a norm."""

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
        self.placed = Placed(dim, max_length=max_length, dropout=dropout, learned=learned)
        self.blocks = nn.ModuleList(
            Block(dim, settings, settings.build_kernel(dim, max_length=max_length, causal=causal), dropout=dropout)
            for _ in range(settings.layers)
        )
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`."""
        x, allowed = self.placed(vectors), self._allowed(vectors, lengths)
        for block in self.blocks:
            x = block(x, causal=self.causal, allowed=allowed, times=times).output
        return without_padding(self.norm_out(x), lengths)

    def at_end(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`: the last block is asked at the last position alone, where its kernel can be."""
        last = self.blocks[-1] if len(self.blocks) else None
        if not (self.causal and isinstance(last, Block) and last.attention.kernel.one_query):
            return super().at_end(vectors, lengths=lengths, times=times)
        x = self.placed(vectors)
        for block in self.blocks[:-1]:
            x = block(x, causal=True, times=times).output
        return self.norm_out(last.at_end(x, lengths=lengths)).squeeze(1)

    def shares(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> list[Tensor | None]:
        """See `encoder.Encoder`."""
        x, allowed, found = self.placed(vectors), self._allowed(vectors, lengths), []
        for block in self.blocks:
            assert isinstance(block, Block), "the stack is made of blocks"
            attended = block(x, causal=self.causal, allowed=allowed, times=times, need_weights=True)
            x = attended.output
            found.append(attended.weights if block.attention.kernel.weights_are == "shares" else None)
        return found

    def _allowed(self, vectors: Tensor, lengths: Tensor) -> Tensor | None:
        """Padding on the right is later than all that is real: only those who see both ways need a mask."""
        return None if self.causal else real_positions(vectors, lengths)[:, None, None]


class Block(nn.Module):
    """Attention and a position-wise network, each behind a norm and around a residual."""

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
    ) -> Attended:
        """(B, L, D) -> (B, L, D), and the weights (B, H, L, L) where they are asked for."""
        attended = self.attention(
            self.norm_attention(x), causal=causal, allowed=allowed, times=times, need_weights=need_weights
        )
        x = x + self.dropout(attended.output)
        return Attended(x + self.dropout(self.network(self.norm_network(x))), attended.weights)

    def at_end(self, x: Tensor, *, lengths: Tensor) -> Tensor:
        """(B, L, D) -> (B, 1, D), what `forward` gives causally at the last real position."""
        end = last_position(x, lengths)
        end = end + self.dropout(self.attention.at_end(self.norm_attention(x), lengths=lengths))
        return end + self.dropout(self.network(self.norm_network(end)))
