"""Controls: orders of events that do not use the scores, as baselines for attribution methods.

Shapes: B users, L positions, N = n_items + 1 item rows, n requested items.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.attribution.method import Method, Requirement, repeat_for_items
from attnrec.attribution.seeding import histories, random_generator
from attnrec.dataset import Batch
from attnrec.models import Model


def random(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Return uniform random numbers from 0 to 1, independent for each history and item: (B, L, n), 0 at padding."""
    del model
    values = np.zeros((*batch.items.shape, items.shape[1]), dtype=np.float32)
    for user, (history, user_items) in enumerate(zip(histories(batch), items.tolist(), strict=True)):
        for column, item in enumerate(user_items):
            values[user, : len(history), column] = random_generator(seed, history, item).random(len(history))
    return torch.from_numpy(values).to(items.device)


def recency(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Return the position of each event divided by the history length, 1 for the last: (B, L, n), 0 at padding."""
    del model, seed
    positions = batch.real.cumsum(1) / batch.lengths.clamp(min=1)[:, None]
    return repeat_for_items(items, positions * batch.real)


def item_cosine(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Return the cosine of the item vectors of the event and the requested item: (B, L, n), 0 at padding.

    Raises:
        TypeError: for a model without item vectors.
    """
    del seed
    vectors = F.normalize(model.item_vectors().detach(), dim=-1)
    return vectors[batch.items] @ vectors[items].mT * batch.real[..., None]


def popularity(model: Model, batch: Batch, items: Tensor, *, seed: int = 0, counts: Tensor | None = None) -> Tensor:
    """Return the number of training events of the event's item: (B, L, n), 0 at padding.

    Raises:
        ValueError: without `counts` of shape (N,); models do not store them.
    """
    del seed
    if counts is None or counts.shape != model.rankable.shape:
        actual = "none" if counts is None else f"shape {tuple(counts.shape)}"
        raise ValueError(
            f"popularity needs counts, the number of training events of each item row, ({len(model.rankable)},), "
            f"got {actual}; pass counts=torch.from_numpy(histories.item_counts())"
        )
    return repeat_for_items(items, counts.to(items.device)[batch.items].float() * batch.real)


def has_item_vectors(model: Model) -> bool:
    """Return whether the model has `item_vectors`."""
    try:
        model.item_vectors()
    except TypeError:
        return False
    return True


RANDOM = Method(random, source="control", control=True)
RECENCY = Method(recency, source="control", control=True)
ITEM_COSINE = Method(
    item_cosine, source="control", requirement=Requirement("a model with item vectors", has_item_vectors), control=True
)
POPULARITY = Method(popularity, source="control", control=True, takes_counts=True)
