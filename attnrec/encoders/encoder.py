"""The interface of history encoders.

Shapes: B users, L positions, D channels, H heads.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnrec.attention import last_position
from attnrec.config import Config
from attnrec.layers import Dropout


class Encoder(nn.Module, ABC):
    """Map event vectors to states of the history, by default of the events up to each position.

    Args:
        dim: D.
        max_length: maximum number of positions.
        dropout: dropout rate of the input and inside the encoder, 0 to 1.
        causal: whether a state must not depend on later events. Recurrent and convolutional encoders always are causal.
        settings: settings of the encoder.

    Attributes:
        paper: reference of the method.
        Settings: the settings class, filled from the TOML.
        needs_items: whether its methods also take the item rows of the events, `items` (B, L).
    """

    paper: ClassVar[str]
    Settings: ClassVar[type[Config]] = Config
    needs_items: ClassVar[bool] = False

    def __init__(
        self, dim: int, *, max_length: int, dropout: float, causal: bool = True, settings: Config | None = None
    ) -> None:
        super().__init__()
        self.dim = dim
        self.max_length = max_length
        self.causal = causal
        self.dropout = Dropout(dropout)
        self.settings = settings or self.Settings()

    @abstractmethod
    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """Encode histories; with `causal` the state at a position depends only on the vectors up to it.

        Args:
            vectors: event vectors, oldest first, padded on the right with finite values, (B, L, D).
            lengths: number of events of each history, (B,).
            times: Unix seconds of the events, (B, L), for encoders that use them.

        Returns:
            States, (B, L, D); 0 at padding.
        """

    def at_last_position(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """Return the state at the last real position, (B, D)."""
        return last_position(self(vectors, lengths=lengths, times=times), lengths).squeeze(1)

    def attention_weights(
        self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None
    ) -> list[Tensor | None]:
        """Return the attention weights of each layer, (B, H, L, L), or None for a layer without normalised weights.

        The list is empty for an encoder without attention.
        """
        del vectors, lengths, times
        return []


def real_positions(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the mask of real positions of x (B, L, ...), (B, L)."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def without_padding(states: Tensor, lengths: Tensor) -> Tensor:
    """Set padding of states (B, L, ...) to 0."""
    real = real_positions(states, lengths)
    return states.masked_fill(~real.view(*real.shape, *[1] * (states.dim() - 2)), 0)
