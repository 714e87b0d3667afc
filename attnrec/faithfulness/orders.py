"""The order of events by an attribution, largest first; ties are broken at random.

A fixed order of ties, such as earliest first, would itself be a method and would change the measured quality.
Shapes: B users, L positions, N = n_items + 1 item rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnrec.attribution import attribute
from attnrec.attribution.seeding import histories, random_generator
from attnrec.attribution.shapley import shapley
from attnrec.dataset import Batch
from attnrec.models import Model

LEVELS = 100_000
"""Attributions are rounded to this fraction of the largest in the history, so that rounding errors count as ties."""

TIES, REMOVED, PERMUTED = 1, 2, 3  # one key per use of random numbers, so that the uses are independent

N_PERMUTATIONS = 8
"""Permutations of `shapley`, which would otherwise take most of the time: `attnrec` on the synthetic shop (100 users of
31 events) had a pos_at_5 of .18 with 4, .17 with 8 in 4 s and .15 with 32, the default of `shapley`, in 19 s."""


@dataclass(frozen=True, eq=False)
class MethodOptions:
    """Options of attribution methods.

    Attributes:
        seed: seed of all random numbers.
        counts: training events of each item row, (N,), for `popularity`.
        n_permutations: of `shapley`.
    """

    seed: int = 0
    counts: Tensor | None = None
    n_permutations: int = N_PERMUTATIONS


def attribution_levels(model: Model, batch: Batch, items: Tensor, *, method: str, options: MethodOptions) -> Tensor:
    """Compute the attribution of one item per user, rounded to integers so that equal attributions are ties.

    Args:
        model: that supports the method.
        batch: B users.
        items: the explained item of each, (B,).
        method: a name in `METHODS`.
        options: options of the method.

    Returns:
        (B, L) int64 from -LEVELS to LEVELS, 0 at padding; the largest absolute value of a history is LEVELS.
    """
    columns = items[:, None]
    if method == "shapley":
        values = shapley(model, batch, columns, seed=options.seed, n_permutations=options.n_permutations)
    else:
        values = attribute(model, batch, columns, method=method, seed=options.seed, counts=options.counts)
    values = values[..., 0].double()
    largest = values.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (values / largest * LEVELS).round().long()


def random_numbers(batch: Batch, items: Tensor, *, seed: int, purpose: int) -> Tensor:
    """Draw a uniform random number for each event, (B, L) float64; depends on seed, history and item alone.

    Args:
        batch: B users.
        items: the explained item of each, (B,).
        seed: at least 0.
        purpose: key of the use, so that uses with one seed are independent.
    """
    numbers = np.zeros(batch.items.shape)
    for user, (history, item) in enumerate(zip(histories(batch), items.tolist(), strict=True)):
        numbers[user, : len(history)] = random_generator(seed, history, item, purpose).random(len(history))
    return torch.from_numpy(numbers).to(batch.items.device)


def rank_events(levels: Tensor, tie_breakers: Tensor, *, real: Tensor) -> Tensor:
    """Rank events from the largest attribution, 0 for the first.

    Args:
        levels: integers, (B, L), see `attribution_levels`.
        tie_breakers: order of ties, (B, L), see `random_numbers`.
        real: True at events, (B, L) bool.

    Returns:
        (B, L) int64: a permutation of each row, with padding last.
    """
    levels = levels.masked_fill(~real, torch.iinfo(torch.int64).min)
    shuffled = tie_breakers.argsort(dim=1)
    order = shuffled.gather(1, levels.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    return order.argsort(dim=1)
