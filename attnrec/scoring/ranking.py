"""Full-catalogue ranking: the k best items of each user, deterministic over runs and batch sizes.

Shapes: B users, N = n_items + 1 item rows, k ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Batch, Histories, user_batches
from attnrec.models import EncodedHistories, Model


@dataclass(frozen=True, eq=False)
class RankedBatch:
    """The k best items of one batch of users.

    Attributes:
        positions: positions of these users in the `users` argument of `rank_users`, (B,).
        batch: their histories.
        encoded: the histories as encoded by the model.
        items: item rows by rank, (B, k); 0 where fewer than k items can be recommended.
        scores: (B, k) float32; -inf where `items` is 0.
    """

    positions: NDArray[np.int64]
    batch: Batch
    encoded: EncodedHistories
    items: Tensor
    scores: Tensor


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row of `scores` and their item rows; on ties the smaller item row wins.

    Args:
        scores: (B, N).
        k: number of ranks; at most N are returned.

    Returns:
        Values and item rows, both (B, min(k, N)), best first. The item row is 0 where the value is -inf.
    """
    k = min(k, scores.shape[1])
    best = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    values, rows = best.values[:, :k], best.indices[:, :k]
    # topk keeps an arbitrary subset of the entries tied with its last value: sort the rows where the tie crosses k
    tied = (best.values[:, k - 1] == best.values[:, -1]) & (best.values.shape[1] > k) & values[:, -1].isfinite()
    if tied.any():
        order = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], rows[tied] = order.values[:, :k], order.indices[:, :k]
    by_row = rows.argsort(dim=1, stable=True)
    values, rows = values.gather(1, by_row), rows.gather(1, by_row)
    by_value = values.argsort(dim=1, descending=True, stable=True)
    values, rows = values.gather(1, by_value), rows.gather(1, by_value)
    return values, rows.masked_fill(values == float("-inf"), 0)


def rank_users(
    model: Model,
    histories: Histories,
    users: NDArray[np.int64],
    *,
    k: int,
    filter_viewed: bool = True,
    batch_size: int | None = None,
) -> Iterator[RankedBatch]:
    """Rank the full catalogue for each of `users`, batch by batch.

    Args:
        model: trained on the catalogue of `histories`.
        histories: the users' histories.
        users: user rows to rank for.
        k: number of items per user.
        filter_viewed: exclude every item of the user's history, including events before the model's window.
        batch_size: users per batch. None chooses about 8,192 history positions on a CPU, so that activations stay in
            cache, and 1,024 users on a GPU.

    Yields:
        Batches of users of similar history length, longest first.
    """
    device = model.rankable.device
    batch_size = batch_size or _default_batch_size(model, device)
    histories = histories.with_event_names(model.event_names)
    model.eval()
    with torch.inference_mode():
        for positions, batch in user_batches(
            histories, users, max_length=model.max_length, batch_size=batch_size, memory_events=model.memory_events
        ):
            encoded = model.encode(batch.to(device))
            scores = encoded.scores().float().masked_fill(~model.rankable, float("-inf"))
            if filter_viewed:
                rows = np.repeat(np.arange(len(positions)), histories.lengths[users[positions]])
                viewed = histories.items[histories.positions(users[positions])].astype(np.int64)
                scores[torch.from_numpy(rows).to(device), torch.from_numpy(viewed).to(device)] = float("-inf")
            values, items = top_k(scores, k)
            yield RankedBatch(positions, batch, encoded, items, values)


def _default_batch_size(model: Model, device: torch.device) -> int:
    if device.type == "cuda":
        return 1024
    return max(16, min(256, 8192 // model.max_length))
