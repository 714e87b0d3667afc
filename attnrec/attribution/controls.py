"""Controls: orders of events that look at no score, for attribution methods to be better than.

Shapes: B users, L positions, N = n_items + 1 item rows, n items asked for.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.attribution.method import Method, Need, same_for_all
from attnrec.attribution.seeding import generator, histories
from attnrec.dataset import Batch
from attnrec.models import Model


def random(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Numbers from 0 to 1, drawn anew for each history and each item asked for: (B, L, n), 0 at padding."""
    del model
    drawn = np.zeros((*batch.items.shape, items.shape[1]), dtype=np.float32)
    for user, (history, asked) in enumerate(zip(histories(batch), items.tolist(), strict=True)):
        for place, item in enumerate(asked):
            drawn[user, : len(history), place] = generator(seed, history, item).random(len(history))
    return torch.from_numpy(drawn).to(items.device)


def recency(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Places from the start as a part of the history, 1 for the last event: (B, L, n), 0 at padding."""
    del model, seed
    places = batch.real.cumsum(1) / batch.lengths.clamp(min=1)[:, None]
    return same_for_all(items, places * batch.real)


def item_cosine(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Cosines of the model's vectors of the event's item and the item asked for: (B, L, n), 0 at padding.

    Raises:
        TypeError: for a model without item vectors.
    """
    del seed
    vectors = F.normalize(model.item_vectors().detach(), dim=-1)
    return vectors[batch.items] @ vectors[items].mT * batch.real[..., None]


def popularity(model: Model, batch: Batch, items: Tensor, *, seed: int = 0, counts: Tensor | None = None) -> Tensor:
    """How often the event's item occurs in training: (B, L, n), in events, 0 at padding.

    Raises:
        ValueError: without counts, (N,): models do not keep them.
    """
    del seed
    if counts is None or counts.shape != model.rankable.shape:
        came = "none" if counts is None else f"shape {tuple(counts.shape)}"
        raise ValueError(
            f"popularity needs the events of each item row in training, ({len(model.rankable)},), got {came}; "
            "give counts=torch.from_numpy(histories.item_counts())"
        )
    return same_for_all(items, counts.to(items.device)[batch.items].float() * batch.real)


def _has_item_vectors(model: Model) -> bool:
    try:
        model.item_vectors()
    except TypeError:
        return False
    return True


RANDOM = Method(random, source="control", control=True)
RECENCY = Method(recency, source="control", control=True)
ITEM_COSINE = Method(
    item_cosine, source="control", needs=Need("a model with item vectors", _has_item_vectors), control=True
)
POPULARITY = Method(popularity, source="control", control=True, takes_counts=True)
