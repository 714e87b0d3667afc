"""NextItNet: residual blocks of causal dilated convolutions (Yuan et al. 2019, arXiv:1808.05163).

Doubling dilations give a large receptive field in few layers: 91 events with the default settings.
Shapes: B users, L positions, D channels.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from attnrec.config import Config
from attnrec.encoders.causal_conv import CausalConv
from attnrec.encoders.encoder import Encoder, without_padding
from attnrec.layers import Dropout

Dilation = Annotated[int, Field(ge=1)]


class DilatedConvSettings(Config):
    """Settings of `DilatedConv`.

    Attributes:
        dilations: one block each.
        repeats: number of times the sequence of blocks is repeated.
        kernel_size: number of events per convolution.
    """

    dilations: tuple[Dilation, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    repeats: int = Field(default=1, ge=1)
    kernel_size: int = Field(default=3, ge=2)


class DilatedConv(Encoder):
    """A stack of `DilatedBlock`."""

    paper = "Yuan et al. 2019, arXiv:1808.05163"
    Settings = DilatedConvSettings

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        dropout: float,
        causal: bool = True,
        settings: DilatedConvSettings | None = None,
    ) -> None:
        settings = settings or DilatedConvSettings()
        super().__init__(dim, max_length=max_length, dropout=dropout, causal=causal, settings=settings)
        self.blocks = nn.ModuleList(
            DilatedBlock(dim, kernel_size=settings.kernel_size, dilation=dilation, dropout=dropout)
            for dilation in settings.dilations * settings.repeats
        )

    @property
    def receptive_field(self) -> int:
        """Number of events that a state depends on, including its own."""
        return 1 + sum(conv.left_padding for conv in self.modules() if isinstance(conv, CausalConv))

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`; `times` are ignored."""
        x = self.dropout(vectors)
        for block in self.blocks:
            x = block(x)
        return without_padding(x, lengths)


class DilatedBlock(nn.Module):
    """x + ReLU(LN(conv(ReLU(LN(conv(x)))))), the second with twice the dilation (figure 3b and the authors' code)."""

    def __init__(self, dim: int, *, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.near = CausalConv(dim, dim, kernel_size=kernel_size, dilation=dilation)
        self.norm_near = nn.LayerNorm(dim)
        self.far = CausalConv(dim, dim, kernel_size=kernel_size, dilation=2 * dilation)
        self.norm_far = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        inner = self.norm_near(self.near(x)).relu()
        return x + self.dropout(self.norm_far(self.far(inner)).relu())
