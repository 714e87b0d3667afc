"""Readouts: encoder states -> user vector, which is an exact sum over the history or not.

Shapes: B users, L positions, D channels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnrec.attention import AttentionKernel, AttentionPooling, ItemValues, KernelShape, build_kernel, last_position
from attnrec.encoders.encoder import real_positions
from attnrec.layers import Dropout, Linear
from attnrec.models.sequence.config import SequenceConfig


@dataclass(frozen=True, eq=False)
class UserVectors:
    """User vectors at the end of the histories.

    Attributes:
        users: (B, D).
        parts: contribution of each event to the user vector, (B, L, D), with sum `users` over L; None where the user
            vector is not a sum over the history.
        weights: attention weight of each event, mean over heads, (B, L), or None.
    """

    users: Tensor
    parts: Tensor | None = None
    weights: Tensor | None = None


class Readout(nn.Module, ABC):
    """Computes user vectors from encoder states.

    Attributes:
        exact: whether the user vector is a sum over the history of values that depend on single events.
    """

    exact: ClassVar[bool]

    def values(self, vectors: Tensor) -> Tensor:
        """Return the value of each event, computed from its own item vector only: (..., D) -> (..., D)."""
        return vectors

    @abstractmethod
    def at_all_positions(self, states: Tensor, values: Tensor) -> Tensor:
        """Return the user vector at every position, from the events up to it, (B, L, D); for training."""

    @abstractmethod
    def at_last_position(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> UserVectors:
        """Return the user vector at the end of the history; zeros for an empty history."""


class Last(Readout):
    """The state of the last event. It mixes all events, so contributions are not exact."""

    exact = False

    def at_all_positions(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        return states

    def at_last_position(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> UserVectors:
        """See `Readout`."""
        return UserVectors(last_position(states, lengths).squeeze(1) * (lengths > 0)[:, None])


class Pooling(Readout):
    """Multi-head attention pooling over the history, with values of single events (`AttentionPooling`)."""

    exact = True

    def __init__(self, dim: int, *, heads: int, projection: bool, dropout: float) -> None:
        super().__init__()
        self.pooling = AttentionPooling(dim, heads=heads, projection=projection)
        self.item_values = ItemValues(dim, dropout=dropout)

    def values(self, vectors: Tensor) -> Tensor:
        """See `Readout`."""
        return self.item_values(vectors)

    def at_all_positions(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        return self.pooling.at_all_positions(states, values)

    def at_last_position(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> UserVectors:
        """See `Readout`."""
        weights = self.weights(states, lengths=lengths)
        parts = self.parts(weights, values)
        return UserVectors(parts.sum(1), parts, weights.mean(1))

    def weights(self, states: Tensor, *, lengths: Tensor) -> Tensor:
        """Return the attention weights at the end of the history, (B, H, L) for H heads."""
        return self.pooling.weights(states, lengths=lengths)

    def parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the contribution of each event to the user vector, (B, L, D), for weights (B, H, L)."""
        return self.pooling.parts(weights, values)


class ItemSum(Readout):
    """A weighted sum of the item vectors themselves (CORE: Hou et al. 2022, arXiv:2204.11067, section 3.2).

    One weight per event: the softmax of a learned linear function of its state. Users and items share one vector space.
    """

    exact = True

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.logits = Linear(dim, 1, bias=False)
        self.dropout = Dropout(dropout)

    def values(self, vectors: Tensor) -> Tensor:
        """See `Readout`; dropout is applied to the item vectors, as in section 3.3."""
        return self.dropout(vectors)

    def at_all_positions(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        logits, past = (
            self._event_logits(states),
            torch.ones(len(states[0]), len(states[0]), device=states.device).tril(),
        )
        weights = logits[:, None].masked_fill(past == 0, float("-inf")).softmax(-1)
        return weights @ values

    def at_last_position(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> UserVectors:
        """See `Readout`."""
        weights = self.weights(states, lengths=lengths)
        parts = self.parts(weights, values)
        return UserVectors(parts.sum(1), parts, weights.squeeze(1))

    def weights(self, states: Tensor, *, lengths: Tensor) -> Tensor:
        """Return the attention weights at the end of the history, (B, 1, L)."""
        real = real_positions(states, lengths)
        logits = self._event_logits(states).masked_fill(~real, torch.finfo(states.dtype).min)
        return (logits.softmax(-1) * real)[:, None]

    def parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the contribution of each event to the user vector, (B, L, D), for weights (B, 1, L)."""
        return weights.squeeze(1)[..., None] * values

    def _event_logits(self, states: Tensor) -> Tensor:
        return self.logits(states).squeeze(-1)


class GlobalLocal(Readout):
    """The last state and its attention over all states (NARM: Li et al. 2017, arXiv:1711.04725, section 3).

    The paper's bilinear decoder is the projection of both to the item space. States mix events, so contributions are
    not exact.
    """

    exact = False

    def __init__(self, dim: int, *, max_length: int, dropout: float) -> None:
        super().__init__()
        self.attention: AttentionKernel = build_kernel(
            "additive", KernelShape(heads=1, channels=dim, max_length=max_length)
        )
        self.dropout = Dropout(dropout)
        self.decoder = Linear(2 * dim, dim, bias=False)

    def at_all_positions(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        states_one_head = states[:, None]
        local = self.attention(states_one_head, states_one_head, states_one_head, causal=True).output.squeeze(1)
        return self._decoded(states, local)

    def at_last_position(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> UserVectors:
        """See `Readout`."""
        end, keys = last_position(states, lengths), states[:, None]
        real = real_positions(states, lengths)[:, None, None]
        local = self.attention(end[:, None], keys, keys, allowed=real, need_weights=True)
        assert local.weights is not None, "need_weights=True returns weights"
        users = self._decoded(end, local.output.squeeze(1)).squeeze(1) * (lengths > 0)[:, None]
        return UserVectors(users, weights=local.weights[:, 0, 0])

    def _decoded(self, last: Tensor, local: Tensor) -> Tensor:
        return self.decoder(self.dropout(torch.cat([last, local], dim=-1)))


def build_readout(config: SequenceConfig) -> Readout:
    """Build the readout of these settings."""
    match config.readout:
        case "pooling":
            projection = config.pooling_projection
            return Pooling(config.dim, heads=config.pooling_heads, projection=projection, dropout=config.dropout)
        case "item_sum":
            return ItemSum(config.dim, dropout=config.dropout)
        case "global_local":
            return GlobalLocal(config.dim, max_length=config.max_length, dropout=config.dropout)
        case "last":
            return Last()
