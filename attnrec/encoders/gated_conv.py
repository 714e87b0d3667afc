"""Causal convolutions with causal channel gates and spatial gates.

Channel gates: squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507), or with CBAM's second squeeze (Woo et al.
2018, arXiv:1807.06521, section 3.1); spatial gates: CBAM's. The papers squeeze a whole image; here the squeeze at a
position covers the history up to it, so the gates show which channels and events of the past form a state.
Shapes: B users, L positions, D channels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.config import Config
from attnrec.encoders.causal_conv import CausalConv
from attnrec.encoders.encoder import Encoder, without_padding
from attnrec.layers import Dropout, Linear


class GatedConvSettings(Config):
    """Settings of `GatedConv`.

    Attributes:
        layers: number of blocks.
        kernel_size: number of events per convolution.
        channel_gate: squeeze of the channel gate, "mean" as Hu et al., "mean_and_max" as Woo et al., or "none" for
            no gate.
        reduction: the channel gate has D / reduction hidden units.
        spatial_gate: whether to use a spatial gate.
        spatial_kernel_size: number of events of the spatial gate's convolution.
    """

    layers: int = Field(default=3, ge=1)
    kernel_size: int = Field(default=5, ge=1)
    channel_gate: Literal["mean_and_max", "mean", "none"] = "mean_and_max"
    reduction: int = Field(default=4, ge=1)
    spatial_gate: bool = True
    spatial_kernel_size: int = Field(default=7, ge=1)


@dataclass(frozen=True, eq=False)
class Gates:
    """Gate values of one layer, 0 (closed) to 1 (open); None for a gate that is switched off.

    Attributes:
        channel: (B, L, D), 0 at padding.
        spatial: (B, L), 0 at padding.
    """

    channel: Tensor | None
    spatial: Tensor | None


class GatedConv(Encoder):
    """A stack of `GatedBlock` with a final layer norm."""

    paper = "Hu et al. 2018, arXiv:1709.01507; Woo et al. 2018, arXiv:1807.06521"
    Settings = GatedConvSettings

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        dropout: float,
        causal: bool = True,
        settings: GatedConvSettings | None = None,
    ) -> None:
        settings = settings or GatedConvSettings()
        super().__init__(dim, max_length=max_length, dropout=dropout, causal=causal, settings=settings)
        self.blocks = nn.ModuleList(GatedBlock(dim, settings, dropout=dropout) for _ in range(settings.layers))
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`; `times` are ignored."""
        x = self.dropout(vectors)
        for block in self.blocks:
            x, _ = block(x)
        return without_padding(self.norm_out(x), lengths)

    def gates(self, vectors: Tensor, *, lengths: Tensor) -> list[Gates]:
        """Return the gate values of each layer for these vectors (B, L, D)."""
        x, layers = self.dropout(vectors), []
        for block in self.blocks:
            x, gates = block(x)
            masked = (
                None if gate is None else without_padding(gate, lengths) for gate in (gates.channel, gates.spatial)
            )
            layers.append(Gates(*masked))
        return layers


class GatedBlock(nn.Module):
    """x + gated GELU(conv(LN(x))): the channel gate first, as in CBAM."""

    def __init__(self, dim: int, settings: GatedConvSettings, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = CausalConv(dim, dim, kernel_size=settings.kernel_size)
        self.channel_gate, self.spatial_gate = None, None
        if settings.channel_gate != "none":
            with_max = settings.channel_gate == "mean_and_max"
            self.channel_gate = ChannelGate(dim, reduction=settings.reduction, with_max=with_max)
        if settings.spatial_gate:
            self.spatial_gate = SpatialGate(kernel_size=settings.spatial_kernel_size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Gates]:
        """(B, L, D) -> (B, L, D), and the gate values."""
        inner = nn.functional.gelu(self.conv(self.norm(x)))
        channel, spatial = None, None
        if self.channel_gate is not None:
            channel = self.channel_gate(inner)
            inner = inner * channel
        if self.spatial_gate is not None:
            spatial = self.spatial_gate(inner)
            inner = inner * spatial[..., None]
        return x + self.dropout(inner), Gates(channel, spatial)


class ChannelGate(nn.Module):
    """sigmoid(f(mean over 0..t) + f(max over 0..t)) at position t, one network f for both; without max it is SE."""

    def __init__(self, dim: int, *, reduction: int, with_max: bool) -> None:
        super().__init__()
        hidden = max(1, dim // reduction)
        self.excite = nn.Sequential(Linear(dim, hidden), nn.ReLU(), Linear(hidden, dim))
        self.with_max = with_max

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), 0 to 1."""
        logits = self.excite(running_mean(x))
        return (logits + self.excite(running_max(x)) if self.with_max else logits).sigmoid()


class SpatialGate(nn.Module):
    """sigmoid(conv(mean and max over the channels)) at each position, from this and earlier positions."""

    def __init__(self, *, kernel_size: int) -> None:
        super().__init__()
        self.conv = CausalConv(2, 1, kernel_size=kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L), 0 to 1."""
        squeezed = torch.stack([x.mean(-1), x.amax(-1)], dim=-1)
        return self.conv(squeezed).squeeze(-1).sigmoid()


def running_mean(x: Tensor) -> Tensor:
    """Mean over positions 0 to t: (B, L, D) -> (B, L, D)."""
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]


def running_max(x: Tensor) -> Tensor:
    """Maximum over positions 0 to t: (B, L, D) -> (B, L, D)."""
    # along the last axis 64 x 200 x 64 take 2 ms, along the middle axis 17
    return x.mT.contiguous().cummax(-1).values.mT
