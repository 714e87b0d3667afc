"""Inputs of the training loss of a random walk, and the loss without an order: each item from all other items.

Shapes: B users, L positions, T targets, H heads, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TargetSteps:
    """Events of B histories and their step probabilities to the targets, each user on a graph without their own events.

    Attributes:
        vectors: item vectors of the events, (B, L, D).
        statistics: statistics of the events' items, (B, L, 2): log(1 + number of users), and the logsumexp of the step
            logits, which measures how strong the item's edges are, mean over heads.
        popularity: popularity of the targets, (B, T).
        real: events that count, (B, L) bool.
        has_neighbours: events whose item has a neighbour, (B, L) bool.
        steps: step probability from each event to each target, (B, L, T, H).
    """

    vectors: Tensor
    statistics: Tensor
    popularity: Tensor
    real: Tensor
    has_neighbours: Tensor
    steps: Tensor


def other_items_loss(logits: Tensor, targets: TargetSteps, popularity: Tensor, *, popularity_weight: Tensor) -> Tensor:
    """Compute the mean negative log probability of each item of a set, given the other items of the set, in nats.

    Items of the history are not recommended again, so the probability of an item is normalised over the items outside
    the rest of the set.

    Args:
        logits: start logits of the events, -inf where they do not count, (B, L, H).
        targets: with T = L targets, the items of the events.
        popularity: weighted popularity of each target, (B, L).
        popularity_weight: its sum over all items, a scalar.
    """
    largest = logits.amax((1, 2), keepdim=True).clamp(min=-1e9).detach()
    # bounded below, so that leaving one event out never divides by ~0
    weights = (logits - largest).clamp(min=-20).exp() * targets.real[..., None]
    flow = torch.einsum("blh,blth->blt", weights, targets.steps)  # from event l to event t, unnormalised
    arriving, leaving, starting = flow.sum(1), flow.sum(2), weights.sum(2)
    others = starting.sum(1, keepdim=True) - starting
    has_target, others = targets.real & (others > 0), others.clamp(min=1e-9)
    moving = starting * targets.has_neighbours
    total = (moving.sum(1, keepdim=True) - moving) / others + popularity_weight
    in_set = (arriving.sum(1, keepdim=True) - arriving - leaving) / others
    popularity_in_set = popularity * targets.real
    in_set = in_set + popularity_in_set.sum(1, keepdim=True) - popularity_in_set
    losses = (total - in_set).clamp(min=1e-6).log() - (arriving / others + popularity).clamp(min=1e-12).log()
    return (losses * has_target).sum() / has_target.sum().clamp(min=1)
