"""Attention weights of a model: of its readout, and of the layers of its encoder.

A model returns these from `Model.readout_weights` and `Model.attention_layers`. Attribution methods, analyses and
explanations use them and need no knowledge of model classes.
Shapes: B users, H heads, L events, S encoder positions, D channels, N = n_items + 1 item rows, n requested items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class VectorScores(Protocol):
    """Scores of user vectors (..., D): all item rows (..., N), or the rows in `items` (..., n)."""

    def __call__(self, users: Tensor, items: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class ReadoutWeights:
    """A user vector that is a sum of weighted values, one per event.

    Attributes:
        weights: attention weight of each event, (B, H, L).
        parts: maps weights (B, H, L) to the part of each event in the user vector, (B, L, D); linear in the weights.
        scores: scores of user vectors.
    """

    weights: Tensor
    parts: Callable[[Tensor], Tensor]
    scores: VectorScores

    def parts_by_head(self) -> list[Tensor]:
        """Return the parts of each head alone: H tensors of shape (B, L, D)."""
        heads = []
        for head in range(self.weights.shape[1]):
            alone = self.weights.new_zeros(self.weights.shape)
            alone[:, head] = self.weights[:, head]
            heads.append(self.parts(alone))
        return heads


@dataclass(frozen=True, eq=False)
class AttentionLayers:
    """Attention inside an encoder.

    Attributes:
        weights: attention of each layer, queries by keys, (B, H, S, S); None for a layer whose weights are not
            probabilities.
        lengths: encoder positions that are not padding, (B,).
        event_numbers: number of the event at each encoder position, from 1, (B, S); 0 at positions that are no event
            of the window: padding, compressed memory, the masked position of `masked_items`.
        real: True at events, (B, L) bool.
        supports_rollout: whether attention rollout applies: every layer adds its attention to a residual connection,
            and the user vector is the last state or, with `Model.readout_weights`, the weighted sum of the states.
    """

    weights: list[Tensor | None]
    lengths: Tensor
    event_numbers: Tensor
    real: Tensor
    supports_rollout: bool = False

    @property
    def last(self) -> Tensor:
        """Last encoder position of each user, (B,); 0 where there is none."""
        return (self.lengths - 1).clamp(min=0)

    def from_last_state(self) -> list[Tensor | None]:
        """Return the attention of the last position in each layer, (B, H, S)."""
        users = torch.arange(len(self.lengths), device=self.lengths.device)
        return [None if weights is None else weights[users, :, self.last] for weights in self.weights]

    def by_event(self, values: Tensor) -> Tensor:
        """Map values of encoder positions, (B, S) or (B, S, X), to events, (B, L) or (B, L, X); 0 at padding."""
        numbers, real = (each.view(*each.shape, *[1] * (values.ndim - 2)) for each in (self.event_numbers, self.real))
        events = values.new_zeros(len(values), self.real.shape[1] + 1, *values.shape[2:])
        return events.scatter_add(1, numbers.expand_as(values), values)[:, 1:] * real

    def by_position(self, values: Tensor) -> Tensor:
        """Map values of events, (B, L), to encoder positions, (B, S); 0 at positions that are no event."""
        return torch.cat([torch.zeros_like(values[:, :1]), values], dim=1).gather(1, self.event_numbers)
