"""What every history encoder that is no attention takes and gives: the one interface of this shelf.

Shapes: B users, L positions, D channels.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnrec.config import Config
from attnrec.layers import Dropout


class Encoder(nn.Module, ABC):
    """Vectors of events -> states of the history up to each of them.

    Args:
        dim: D.
        max_length: most positions there will be.
        dropout: rate, 0 to 1, on the vectors and inside.
        settings: the encoder's own.

    Attributes:
        paper: where it comes from.
        Settings: what a person may set, from the TOML.
    """

    paper: ClassVar[str]
    Settings: ClassVar[type[Config]] = Config

    def __init__(self, dim: int, *, max_length: int, dropout: float, settings: Config | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.max_length = max_length
        self.dropout = Dropout(dropout)
        self.settings = settings or self.Settings()

    @abstractmethod
    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """Encode causally: the state at a position depends on the vectors up to it alone.

        Args:
            vectors: of the events, oldest first, padded on the right, (B, L, D).
            lengths: real positions of each history, (B,).
            times: Unix seconds of the events, (B, L), for encoders that look at them.

        Returns:
            States, (B, L, D); 0 at padding, whatever stands there.
        """


def without_padding(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, ...) with zeros behind the end of each history."""
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    return states.masked_fill(~real.view(*real.shape, *[1] * (states.dim() - 2)), 0)
