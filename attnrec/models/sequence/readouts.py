"""Readouts: states of the history -> the user, as a sum over the history or not.

Shapes: B users, L positions, D channels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnrec.attention import AttentionPooling, AttentionKernel, KernelShape, ItemValues, build_kernel, last_position
from attnrec.encoders.encoder import real_positions
from attnrec.layers import Dropout, Linear
from attnrec.models.sequence.config import SequenceConfig


@dataclass(frozen=True, eq=False)
class Pooled:
    """Users at the end of their histories.

    Attributes:
        users: (B, D).
        parts: what each event adds, (B, L, D), whose sum over L is `users`; None where users are no such sum.
        weights: share of attention each event got, (B, L), or None.
    """

    users: Tensor
    parts: Tensor | None = None
    weights: Tensor | None = None


class Readout(nn.Module, ABC):
    """One way to read a user off the states.

    Attributes:
        exact: whether users are sums over the history of what single events are worth.
    """

    exact: ClassVar[bool]

    def values(self, vectors: Tensor) -> Tensor:
        """What events are worth, from their own vectors alone: (..., D) -> (..., D)."""
        return vectors

    @abstractmethod
    def everywhere(self, states: Tensor, values: Tensor) -> Tensor:
        """Users at every position from what came up to it, (B, L, D), for training on causal states."""

    @abstractmethod
    def at_end(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Pooled:
        """Users at the end of the history; zeros where it is empty."""


class Last(Readout):
    """The state of the last event, which mixes all events: there are no exact reasons."""

    exact = False

    def everywhere(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        return states

    def at_end(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Pooled:
        """See `Readout`."""
        return Pooled(last_position(states, lengths).squeeze(1) * (lengths > 0)[:, None])


class Pooling(Readout):
    """Several heads of attention over the history, values from single events (`AttentionPooling`)."""

    exact = True

    def __init__(self, dim: int, *, heads: int, projection: bool, dropout: float) -> None:
        super().__init__()
        self.pooling = AttentionPooling(dim, heads=heads, projection=projection)
        self.worth = ItemValues(dim, dropout=dropout)

    def values(self, vectors: Tensor) -> Tensor:
        """See `Readout`."""
        return self.worth(vectors)

    def everywhere(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        return self.pooling.everywhere(states, values)

    def at_end(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Pooled:
        """See `Readout`."""
        weights = self.weights(states, lengths=lengths)
        parts = self.parts(weights, values)
        return Pooled(parts.sum(1), parts, weights.mean(1))

    def weights(self, states: Tensor, *, lengths: Tensor) -> Tensor:
        """Shares of each event at the end of the history, (B, H, L) of H heads."""
        return self.pooling.weights(states, lengths=lengths)

    def parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """What each event adds to the user, (B, L, D), at these shares (B, H, L)."""
        return self.pooling.parts(weights, values)


class ItemSum(Readout):
    """A weighted sum of the item vectors themselves (CORE: Hou et al. 2022, arXiv:2204.11067, section 3.2).

    One share per event, softmax of a learned direction of its state; user and items live in one space.
    """

    exact = True

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.energy = Linear(dim, 1, bias=False)
        self.dropout = Dropout(dropout)

    def values(self, vectors: Tensor) -> Tensor:
        """See `Readout`; dropout is on the items, as in section 3.3."""
        return self.dropout(vectors)

    def everywhere(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        energy, past = self._energy(states), torch.ones(len(states[0]), len(states[0]), device=states.device).tril()
        shares = energy[:, None].masked_fill(past == 0, float("-inf")).softmax(-1)
        return shares @ values

    def at_end(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Pooled:
        """See `Readout`."""
        weights = self.weights(states, lengths=lengths)
        parts = self.parts(weights, values)
        return Pooled(parts.sum(1), parts, weights.squeeze(1))

    def weights(self, states: Tensor, *, lengths: Tensor) -> Tensor:
        """Shares of each event at the end of the history, (B, 1, L)."""
        real = real_positions(states, lengths)
        energy = self._energy(states).masked_fill(~real, torch.finfo(states.dtype).min)
        return (energy.softmax(-1) * real)[:, None]

    def parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """What each event adds to the user, (B, L, D), at these shares (B, 1, L)."""
        return weights.squeeze(1)[..., None] * values

    def _energy(self, states: Tensor) -> Tensor:
        return self.energy(states).squeeze(-1)


class GlobalLocal(Readout):
    """The last state beside attention of it over all states (NARM: Li et al. 2017, arXiv:1711.04725, section 3).

    The paper's bilinear decoder is the projection of both to the items' space. States mix events: no exact reasons.
    """

    exact = False

    def __init__(self, dim: int, *, max_length: int, dropout: float) -> None:
        super().__init__()
        self.attention: AttentionKernel = build_kernel("additive", KernelShape(heads=1, channels=dim, max_length=max_length))
        self.dropout = Dropout(dropout)
        self.decoder = Linear(2 * dim, dim, bias=False)

    def everywhere(self, states: Tensor, values: Tensor) -> Tensor:
        """See `Readout`."""
        states_one_head = states[:, None]
        local = self.attention(states_one_head, states_one_head, states_one_head, causal=True).output.squeeze(1)
        return self._decoded(states, local)

    def at_end(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Pooled:
        """See `Readout`."""
        end, keys = last_position(states, lengths), states[:, None]
        real = real_positions(states, lengths)[:, None, None]
        local = self.attention(end[:, None], keys, keys, allowed=real, need_weights=True)
        assert local.weights is not None, "additive attention gives weights when asked"
        users = self._decoded(end, local.output.squeeze(1)).squeeze(1) * (lengths > 0)[:, None]
        return Pooled(users, weights=local.weights[:, 0, 0])

    def _decoded(self, last: Tensor, local: Tensor) -> Tensor:
        return self.decoder(self.dropout(torch.cat([last, local], dim=-1)))


def build_readout(config: SequenceConfig) -> Readout:
    """A new readout as the settings ask for."""
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
