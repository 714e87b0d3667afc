"""Shapley values of events, by permutations (Castro et al. 2009, doi:10.1016/j.cor.2008.04.004).

For predictions of any model: Strumbelj & Kononenko 2014, doi:10.1007/s10115-013-0679-x. The players are the events of
the history, and what a coalition is worth is the score of a history of these events alone.
Shapes: B users, L positions, P permutations, n items asked for.
"""

from itertools import permutations
from math import factorial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attribution.method import Method
from attnrec.attribution.removal import score_without_events
from attnrec.attribution.seeding import generator, histories
from attnrec.dataset import Batch
from attnrec.models import Model

N_PERMUTATIONS = 32


def shapley(
    model: Model, batch: Batch, items: Tensor, *, seed: int = 0, n_permutations: int = N_PERMUTATIONS
) -> Tensor:
    """What each event adds when the history is built up event by event, mean over random orders of joining.

    All orders are taken, and the value is exact, where a history has no more of them than `n_permutations`: of up to
    4 events with 32. Events that joined stand in the order of the history. Works for every model; costs P * L scored
    histories per user.

    Args:
        model: in evaluation mode.
        batch: B users.
        items: item rows, (B, n).
        seed: of the orders, which depend on it and the history alone.
        n_permutations: orders drawn for a history that has more.

    Returns:
        (B, L, n), in score units, 0 at padding. Summed over L it is the score less that of the empty history, for
        each order alone and so for their mean.
    """
    rows = torch.arange(len(items), device=items.device)
    with torch.no_grad():
        full = model.score(batch, items)
    ends = score_without_events(model, batch, items, rows=rows, removed=batch.real), full
    joins, n_orders = _orders(batch, n_permutations, seed=seed)
    total = full.new_zeros(*batch.items.shape, items.shape[1])
    for number, order in enumerate(joins):
        total += _gains(model, batch, items, ends=ends, joins=order, asked=n_orders > number)
    return total / n_orders[:, None, None]


def _gains(
    model: Model, batch: Batch, items: Tensor, *, ends: tuple[Tensor, Tensor], joins: Tensor, asked: Tensor
) -> Tensor:
    """What each event adds at the moment it joins, (B, L, n); 0 for users not asked for.

    Args:
        model, batch, items: as for `shapley`.
        ends: scores of the empty and of the full history, (B, n) each.
        joins: how many are there before each event, (B, L), at padding its place.
        asked: whose order this is, (B,) bool.
    """
    sizes = torch.arange(batch.items.shape[1], device=items.device)
    rows, size = ((sizes > 0) & (sizes < batch.lengths[:, None]) & asked[:, None]).nonzero(as_tuple=True)
    worth = ends[1][:, None].repeat(1, len(sizes) + 1, 1)  # by size of the coalition, (B, L + 1, n)
    worth[:, 0] = ends[0]
    worth[rows, size] = score_without_events(model, batch, items, rows=rows, removed=joins[rows] >= size[:, None])
    gains = worth.diff(dim=1).gather(1, joins[..., None].expand(-1, -1, items.shape[1]))
    return gains * (batch.real & asked[:, None])[..., None]


def _orders(batch: Batch, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Up to n orders of each history, (P, B, L), as for `_gains`; and how many of them are its own, (B,)."""
    found = [_of_one(history, n, seed=seed) for history in histories(batch)]
    n_orders = np.array([len(orders) for orders in found])
    joins = np.tile(np.arange(batch.items.shape[1]), (n_orders.max(initial=0), len(found), 1))
    for user, orders in enumerate(found):
        joins[: len(orders), user, : orders.shape[1]] = orders
    device = batch.items.device
    return torch.from_numpy(joins).to(device), torch.from_numpy(n_orders).to(device)


def _of_one(history: NDArray[np.int64], n: int, *, seed: int) -> NDArray[np.int64]:
    places = np.arange(len(history))
    if factorial(len(history)) <= n:
        return np.array(list(permutations(places)), dtype=np.int64)
    return generator(seed, history).permuted(np.tile(places, (n, 1)), axis=1)


SHAPLEY = Method(shapley, source="Castro et al. 2009, doi:10.1016/j.cor.2008.04.004")
