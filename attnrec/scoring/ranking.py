"""The k best items of each user, the same ones in every run.

Shapes: B users, N = n_items + 1 item rows, k places.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Batch, Histories, user_batches
from attnrec.models import Model, EncodedHistories


@dataclass(frozen=True, eq=False)
class RankedBatch:
    """The best items of one batch of users.

    Attributes:
        chosen: which of the users asked for, (B,), indices.
        batch: their histories.
        encoded: what the model made of them.
        items: item rows by rank, (B, k); 0 where fewer than k items can be recommended.
        scores: (B, k) float32, -inf at empty places.
    """

    chosen: NDArray[np.int64]
    batch: Batch
    encoded: EncodedHistories
    items: Tensor
    scores: Tensor


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and rows of the k best of each line of scores (B, N); among equals the smaller row wins.

    Places that only -inf could fill are given row 0.
    """
    k = min(k, scores.shape[1])
    best = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    values, rows = best.values[:, :k], best.indices[:, :k]
    # topk takes any of those equal to its last value: take the smallest rows where the next one is equal to it
    unsure = (best.values[:, k - 1] == best.values[:, -1]) & (best.values.shape[1] > k) & values[:, -1].isfinite()
    if unsure.any():
        order = scores[unsure].sort(dim=1, descending=True, stable=True)
        values[unsure], rows[unsure] = order.values[:, :k], order.indices[:, :k]
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
    """Rank the whole catalogue for each of `users`, batch by batch.

    Args:
        model: trained on the catalogue of `histories`.
        histories: what is known of the users.
        users: rows to rank for.
        k: places.
        filter_viewed: never recommend what is anywhere in the visible history, however long ago.
        batch_size: users at a time; None is as many as read about 8,192 positions on a CPU, where they stay in
            cache, and 1,024 on a GPU.
    """
    device = model.rankable.device
    batch_size = batch_size or _fitting(model, device)
    histories = histories.with_event_names(model.event_names)
    model.eval()
    with torch.inference_mode():
        for chosen, batch in user_batches(
            histories, users, max_length=model.max_length, batch_size=batch_size, memory_events=model.memory_events
        ):
            encoded = model.encode(batch.to(device))
            scores = encoded.scores().float().masked_fill(~model.rankable, float("-inf"))
            if filter_viewed:
                owners = np.repeat(np.arange(len(chosen)), histories.lengths[users[chosen]])
                seen = histories.items[histories.positions(users[chosen])].astype(np.int64)
                scores[torch.from_numpy(owners).to(device), torch.from_numpy(seen).to(device)] = float("-inf")
            values, items = top_k(scores, k)
            yield RankedBatch(chosen, batch, encoded, items, values)


def _fitting(model: Model, device: torch.device) -> int:
    if device.type == "cuda":
        return 1024
    return max(16, min(256, 8192 // model.max_length))
