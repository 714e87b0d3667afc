"""What is asked of a walk in training, and the loss of sets: each item from all others.

Shapes: B users, L positions, T items asked for, H heads, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Walks:
    """Events of B histories and their steps to the items asked for, each user on a graph of their own.

    Attributes:
        vectors: of the events' items, (B, L, D).
        facts: of the events' items: logarithms of 1 + users, and of what the softmax of the steps from there divides
            by, which says how strong its edges are, mean over heads; (B, L, 2).
        popularity: of the items asked for, (B, T).
        real: events that count, (B, L) bool.
        leads: those whose item has a neighbour, (B, L) bool.
        steps: shares of the items asked for among the neighbours of each event's item, (B, L, T, H).
    """

    vectors: Tensor
    facts: Tensor
    popularity: Tensor
    real: Tensor
    leads: Tensor
    steps: Tensor


def other_items_loss(energies: Tensor, walks: Walks, background: Tensor, *, mass: Tensor) -> Tensor:
    """Mean negative log chance of each item of a set among all that the others do not hold, in nats.

    What a user has cannot come again, so an item competes with those that the rest of the set leaves.

    Args:
        energies: of the events, -inf where they do not count, (B, L, H).
        walks: with T = L items asked for, those of the events.
        background: what popularity adds to each, (B, L).
        mass: and to all items together, a scalar.
    """
    largest = energies.amax((1, 2), keepdim=True).clamp(min=-1e9).detach()
    # bounded below, so that leaving one event out never divides by ~0
    weights = (energies - largest).clamp(min=-20).exp() * walks.real[..., None]
    reached = torch.einsum("blh,blth->blt", weights, walks.steps)  # from an event to another
    arriving, leaving, own = reached.sum(1), reached.sum(2), weights.sum(2)
    others = own.sum(1, keepdim=True) - own
    asked, others = walks.real & (others > 0), others.clamp(min=1e-9)
    moving = own * walks.leads
    total = (moving.sum(1, keepdim=True) - moving) / others + mass
    held = (arriving.sum(1, keepdim=True) - arriving - leaving) / others
    behind = background * walks.real
    held = held + behind.sum(1, keepdim=True) - behind
    losses = (total - held).clamp(min=1e-6).log() - (arriving / others + background).clamp(min=1e-12).log()
    return (losses * asked).sum() / asked.sum().clamp(min=1)
