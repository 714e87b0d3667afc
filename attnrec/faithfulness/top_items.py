"""The explained item of each user: the best recommendable item of the model.

Shapes: U requested users, B of them in a batch, L positions, N = n_items + 1 item rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Batch, Histories, user_batches
from attnrec.models import Model
from attnrec.scoring.ranking import rank_users

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class TopItems:
    """A batch of B users with the explained item of each.

    Attributes:
        positions: positions of these users in the `users` argument of `top_item_batches`, (B,).
        batch: their histories.
        items: item rows, (B,).
        recommendable: recommendable items with the full history, (B, N) bool. It does not change when events are
            removed: their items do not become competitors.
    """

    positions: NDArray[np.int64]
    batch: Batch
    items: Tensor
    recommendable: Tensor


def top_item_rows(
    model: Model, histories: Histories, users: NDArray[np.int64], *, filter_viewed: bool
) -> NDArray[np.int64]:
    """Return the row of the best item of each of `users`, (U,); 0 for a user without a recommendable item."""
    items = np.zeros(len(users), dtype=np.int64)
    for ranked in rank_users(model, histories, users, k=1, filter_viewed=filter_viewed, batch_size=BATCH_SIZE):
        items[ranked.positions] = ranked.items[:, 0].cpu().numpy()
    return items


def top_item_batches(
    model: Model, histories: Histories, users: NDArray[np.int64], items: NDArray[np.int64], *, filter_viewed: bool
) -> Iterator[TopItems]:
    """Yield users and their explained items, (U,) each, in batches of similar length."""
    device = model.rankable.device
    for positions, batch in user_batches(
        histories, users, max_length=model.max_length, batch_size=BATCH_SIZE, memory_events=model.memory_events
    ):
        recommendable = model.rankable.repeat(len(positions), 1)
        if filter_viewed:
            rows = np.repeat(np.arange(len(positions)), histories.lengths[users[positions]])
            viewed = histories.items[histories.positions(users[positions])].astype(np.int64)
            recommendable[torch.from_numpy(rows).to(device), torch.from_numpy(viewed).to(device)] = False
        yield TopItems(positions, batch.to(device), torch.from_numpy(items[positions]).to(device), recommendable)
