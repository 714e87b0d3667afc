"""Draws that depend on a seed and on the history alone, never on the batch around it or on the padding.

Shapes: B users, L positions.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset import Batch


def histories(batch: Batch) -> Iterator[NDArray[np.int64]]:
    """The item rows of each user's events, without padding."""
    for row, length in zip(batch.items.cpu().numpy(), batch.lengths.tolist(), strict=True):
        yield row[:length]


def generator(seed: int, history: NDArray[np.int64], *more: int) -> np.random.Generator:
    """A generator for one history and whatever else tells draws apart; all numbers are 0 or more."""
    return np.random.default_rng([seed, len(history), *more, *history.tolist()])
