"""Random generators that depend on a seed and on the history alone, not on the batch or on padding.

Shapes: B users, L positions.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset import Batch


def histories(batch: Batch) -> Iterator[NDArray[np.int64]]:
    """Yield the item rows of each user's events, without padding."""
    for row, length in zip(batch.items.cpu().numpy(), batch.lengths.tolist(), strict=True):
        yield row[:length]


def random_generator(seed: int, history: NDArray[np.int64], *keys: int) -> np.random.Generator:
    """Return a generator for one history; `keys` separate independent uses. All numbers are at least 0."""
    return np.random.default_rng([seed, len(history), *keys, *history.tolist()])
