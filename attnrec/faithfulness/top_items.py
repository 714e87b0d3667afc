"""What is explained: of each user the item that the model recommends first, among all that it could recommend.

Shapes: U users asked for, B of them in a batch, L positions, N = n_items + 1 item rows.
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
class Explained:
    """B users, each with the item that is explained.

    Attributes:
        chosen: which of the users asked for, (B,), indices.
        batch: their histories, as the model reads them.
        items: item rows, (B,).
        recommendable: what could be recommended with the full history, (B, N) bool. It stays so when events are
            taken out: their items are no new competitors.
    """

    chosen: NDArray[np.int64]
    batch: Batch
    items: Tensor
    recommendable: Tensor


def best_items(
    model: Model, histories: Histories, users: NDArray[np.int64], *, filter_viewed: bool
) -> NDArray[np.int64]:
    """Item row that the model recommends first to each of `users`, (U,); 0 where it can recommend nothing."""
    items = np.zeros(len(users), dtype=np.int64)
    for ranked in rank_users(model, histories, users, k=1, filter_viewed=filter_viewed, batch_size=BATCH_SIZE):
        items[ranked.chosen] = ranked.items[:, 0].cpu().numpy()
    return items


def explained_batches(
    model: Model, histories: Histories, users: NDArray[np.int64], items: NDArray[np.int64], *, filter_viewed: bool
) -> Iterator[Explained]:
    """The users with the items explained, (U,) each, in batches of similar length."""
    device = model.rankable.device
    for chosen, batch in user_batches(
        histories, users, max_length=model.max_length, batch_size=BATCH_SIZE, memory_events=model.memory_events
    ):
        recommendable = model.rankable.repeat(len(chosen), 1)
        if filter_viewed:
            owners = np.repeat(np.arange(len(chosen)), histories.lengths[users[chosen]])
            seen = histories.items[histories.positions(users[chosen])].astype(np.int64)
            recommendable[torch.from_numpy(owners).to(device), torch.from_numpy(seen).to(device)] = False
        yield Explained(chosen, batch.to(device), torch.from_numpy(items[chosen]).to(device), recommendable)
