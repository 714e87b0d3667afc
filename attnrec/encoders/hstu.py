"""HSTU: a stack of gated pointwise attention (Zhai et al. 2024, arXiv:2402.17152).

Shapes: B users, L positions, D channels.
"""

from torch import Tensor, nn

from attnrec.attention import HSTUBlock
from attnrec.encoders.attention import AttentionSettings, Placed
from attnrec.encoders.encoder import Encoder, real_positions, without_padding


class HSTUSettings(AttentionSettings):
    """Settings of `HSTU`; the blocks have no position-wise network, so `expansion` means nothing."""

    attention: str = "hstu"


class HSTU(Encoder):
    """A stack of `HSTUBlock`, and a norm; positions are learned as in the paper's code, which adds them once."""

    paper = "Zhai et al. 2024, arXiv:2402.17152"
    Settings = HSTUSettings

    def __init__(
        self, dim: int, *, max_length: int, dropout: float, causal: bool = True, settings: HSTUSettings | None = None
    ) -> None:
        settings = settings or HSTUSettings()
        super().__init__(dim, max_length=max_length, dropout=dropout, causal=causal, settings=settings)
        if settings.positions == "rotary":
            raise ValueError("hstu has relative positions of its own, got positions = 'rotary'; set learned or none")
        learned = settings.positions == "learned"
        self.placed = Placed(dim, max_length=max_length, dropout=dropout, learned=learned)
        self.blocks = nn.ModuleList(
            HSTUBlock(
                dim,
                heads=settings.heads,
                kernel=settings.build_kernel(dim, max_length=max_length, causal=causal),
                dropout=dropout,
            )
            for _ in range(settings.layers)
        )
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`."""
        x = self.placed(vectors)
        allowed = None if self.causal else real_positions(vectors, lengths)[:, None, None]
        for block in self.blocks:
            x = block(x, causal=self.causal, allowed=allowed, times=times)
        return without_padding(self.norm_out(x), lengths)
