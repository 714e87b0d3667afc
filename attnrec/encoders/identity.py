"""No encoder: a state is the event's own vector, whatever came before (a bag of events, as in NAIS and FISM).

Shapes: B users, L positions, D channels.
"""

from torch import Tensor

from attnrec.encoders.encoder import Encoder, without_padding


class Plain(Encoder):
    """Dropout and nothing else."""

    paper = "Kabbur et al. 2013, doi:10.1145/2487575.2487589"

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """See `encoder.Encoder`; times are not looked at."""
        return without_padding(self.dropout(vectors), lengths)
