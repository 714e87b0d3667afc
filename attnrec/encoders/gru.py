"""GRU4Rec: a gated recurrent network over the history (Hidasi et al. 2016, arXiv:1511.06939).

The best networks of the paper have one layer, wider than the item vectors with good losses (Hidasi & Karatzoglou 2018,
arXiv:1706.03847). The losses of both papers are not part of the encoder.
Shapes: B users, L positions, D channels, `hidden` units.
"""

from pydantic import Field
from torch import Tensor, nn

from attnrec.config import Config
from attnrec.encoders.encoder import Encoder, without_padding
from attnrec.layers import Linear


class GRUSettings(Config):
    """Settings of `GRU`. `hidden`: number of units per layer; None for D."""

    layers: int = Field(default=1, ge=1)
    hidden: int | None = Field(default=None, gt=0)


class GRU(Encoder):
    """torch's GRU; its states are projected to D channels if the number of units differs from D."""

    paper = "Hidasi et al. 2016, arXiv:1511.06939"
    Settings = GRUSettings

    def __init__(
        self, dim: int, *, max_length: int, dropout: float, causal: bool = True, settings: GRUSettings | None = None
    ) -> None:
        settings = settings or GRUSettings()
        super().__init__(dim, max_length=max_length, dropout=dropout, causal=causal, settings=settings)
        hidden = settings.hidden or dim
        between = dropout if settings.layers > 1 else 0.0  # torch warns about an unused dropout rate
        self.gru = nn.GRU(dim, hidden, num_layers=settings.layers, dropout=between, batch_first=True)
        self.project_out = None if hidden == dim else Linear(hidden, dim)

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`; `times` are ignored."""
        states, _ = self.gru(self.dropout(vectors))
        if self.project_out is not None:
            states = self.project_out(states)
        return without_padding(states, lengths)
