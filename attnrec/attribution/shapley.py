"""Shapley values of events, by sampled permutations (Castro et al. 2009, doi:10.1016/j.cor.2008.04.004).

For predictions of any model: Strumbelj & Kononenko 2014, doi:10.1007/s10115-013-0679-x. The players are the events of
the history; the value of a coalition is the score of a history of these events alone.
Shapes: B users, L positions, P permutations, n requested items.
"""

from itertools import permutations
from math import factorial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attribution.method import Method
from attnrec.attribution.removal import score_without_events
from attnrec.attribution.seeding import histories, random_generator
from attnrec.dataset import Batch
from attnrec.models import Model

N_PERMUTATIONS = 32


def shapley(
    model: Model, batch: Batch, items: Tensor, *, seed: int = 0, n_permutations: int = N_PERMUTATIONS
) -> Tensor:
    """Compute the mean marginal gain of each event over random orders in which events join the coalition.

    For a history with at most `n_permutations` orders (up to 4 events for 32), all orders are used and the value is
    exact. Events of a coalition keep the order of the history. Works for every model; costs P * L scored histories
    per user.

    Args:
        model: in evaluation mode.
        batch: B users.
        items: item rows, (B, n).
        seed: seed of the orders, which depend on the seed and the history alone.
        n_permutations: orders sampled for a longer history.

    Returns:
        (B, L, n), in score units, 0 at padding. The sum over L is the score minus the score of the empty history,
        for each order and so for their mean.
    """
    rows = torch.arange(len(items), device=items.device)
    with torch.no_grad():
        full = model.score(batch, items)
    ends = score_without_events(model, batch, items, rows=rows, removed=batch.real), full
    ranks, n_orders = _orders(batch, n_permutations, seed=seed)
    total = full.new_zeros(*batch.items.shape, items.shape[1])
    for number, order in enumerate(ranks):
        total += _gains(model, batch, items, ends=ends, ranks=order, selected=n_orders > number)
    return total / n_orders[:, None, None]


def _gains(
    model: Model, batch: Batch, items: Tensor, *, ends: tuple[Tensor, Tensor], ranks: Tensor, selected: Tensor
) -> Tensor:
    """Marginal gain of each event when it joins, (B, L, n); 0 for users that are not selected.

    Args:
        model, batch, items: as for `shapley`.
        ends: scores of the empty and of the full history, (B, n) each.
        ranks: number of events that join before each event, (B, L); its position at padding.
        selected: users that have this order, (B,) bool.
    """
    sizes = torch.arange(batch.items.shape[1], device=items.device)
    rows, size = ((sizes > 0) & (sizes < batch.lengths[:, None]) & selected[:, None]).nonzero(as_tuple=True)
    values = ends[1][:, None].repeat(1, len(sizes) + 1, 1)  # by coalition size, (B, L + 1, n)
    values[:, 0] = ends[0]
    values[rows, size] = score_without_events(model, batch, items, rows=rows, removed=ranks[rows] >= size[:, None])
    gains = values.diff(dim=1).gather(1, ranks[..., None].expand(-1, -1, items.shape[1]))
    return gains * (batch.real & selected[:, None])[..., None]


def _orders(batch: Batch, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Ranks of events in up to n orders, (P, B, L), as for `_gains`; number of orders of each history, (B,)."""
    by_user = [_history_orders(history, n, seed=seed) for history in histories(batch)]
    n_orders = np.array([len(orders) for orders in by_user])
    ranks = np.tile(np.arange(batch.items.shape[1]), (n_orders.max(initial=0), len(by_user), 1))
    for user, orders in enumerate(by_user):
        ranks[: len(orders), user, : orders.shape[1]] = orders
    device = batch.items.device
    return torch.from_numpy(ranks).to(device), torch.from_numpy(n_orders).to(device)


def _history_orders(history: NDArray[np.int64], n: int, *, seed: int) -> NDArray[np.int64]:
    positions = np.arange(len(history))
    if factorial(len(history)) <= n:
        return np.array(list(permutations(positions)), dtype=np.int64)
    return random_generator(seed, history).permuted(np.tile(positions, (n, 1)), axis=1)


SHAPLEY = Method(shapley, source="Castro et al. 2009, doi:10.1016/j.cor.2008.04.004")
