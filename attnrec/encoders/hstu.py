"""HSTU: a stack of gated pointwise attention blocks (Zhai et al. 2024, arXiv:2402.17152).

Shapes: B users, L positions, D channels.
"""

from torch import Tensor, nn

from attnrec.attention import HSTUBlock
from attnrec.encoders.attention import AttentionSettings, PositionEmbedding
from attnrec.encoders.encoder import Encoder, real_positions, without_padding


class HSTUSettings(AttentionSettings):
    """Settings of `HSTU`. The blocks have no position-wise network, so `expansion` has no effect."""

    attention: str = "hstu"


class HSTU(Encoder):
    """A stack of `HSTUBlock` with a final layer norm; learned positions are added once, as in the paper's code."""

    paper = "Zhai et al. 2024, arXiv:2402.17152"
    Settings = HSTUSettings

    def __init__(
        self, dim: int, *, max_length: int, dropout: float, causal: bool = True, settings: HSTUSettings | None = None
    ) -> None:
        settings = settings or HSTUSettings()
        super().__init__(dim, max_length=max_length, dropout=dropout, causal=causal, settings=settings)
        if settings.positions == "rotary":
            raise ValueError(
                "hstu has its own relative positions, got positions = 'rotary'; set positions = 'learned' or 'none'"
            )
        learned = settings.positions == "learned"
        self.position_embedding = PositionEmbedding(dim, max_length=max_length, dropout=dropout, learned=learned)
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
        x = self.position_embedding(vectors)
        allowed = None if self.causal else real_positions(vectors, lengths)[:, None, None]
        for block in self.blocks:
            x = block(x, causal=self.causal, allowed=allowed, times=times)
        return without_padding(self.norm_out(x), lengths)
