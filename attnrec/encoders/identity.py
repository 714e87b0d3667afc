"""No encoder: the state of an event is its vector, independent of other events (a bag of events, as NAIS and FISM).

Shapes: B users, L positions, D channels.
"""

from torch import Tensor

from attnrec.encoders.encoder import Encoder, without_padding


class IdentityEncoder(Encoder):
    """Dropout only."""

    paper = "Kabbur et al. 2013, doi:10.1145/2487575.2487589"

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`; `times` are ignored."""
        return without_padding(self.dropout(vectors), lengths)
