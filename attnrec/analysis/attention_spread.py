"""Entropy of a model's attention, and the effective number of events, by layer and history length.

The effective number of events is exp(entropy), the number of equally weighted events with the same entropy (Hill 1973,
doi:10.2307/1934352, of order 1). It shows where attention goes, not why an item is recommended: contributions do that.
Shapes: B users, H heads, L positions.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Batch, Histories, user_batches
from attnrec.models import Model
from attnrec.models.head_weights import READOUT

LENGTH_BINS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Histories are grouped by length: 1, 2 to 4, 5 to 9, ..."""

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class LayerEntropy:
    """Entropy of one layer's attention for each user of a batch, in nats, mean over heads, (B,)."""

    layer: str
    entropy: Tensor


def attention_spread(model: Model, histories: Histories, users: NDArray[np.int64]) -> pd.DataFrame:
    """Compute entropy and effective number of events of the attention that makes each user's state.

    Args:
        model: trained on the catalogue of `histories`.
        histories: the log.
        users: user rows, (U,); users without events are skipped.

    Returns:
        One row per layer ("layer 1" is closest to the items, "readout" is the last) and group of lengths: layer, length
        (mean number of events in the window), n_users, entropy (nats), effective_events, normalised_entropy (entropy
        divided by that of uniform attention, 0 to 1; NaN for single events). Heads are averaged before the entropy in
        the readout, and after it in other layers. Empty for a model without attention weights that are probabilities.
    """
    users = users[histories.lengths[users] > 0]
    rows = [pd.DataFrame({"layer": [], "length": [], "entropy": []})]
    model.eval()
    with torch.inference_mode():
        for _, batch in user_batches(
            histories, users, max_length=model.max_length, batch_size=BATCH_SIZE, memory_events=model.memory_events
        ):
            lengths = batch.lengths.numpy()
            rows += [
                pd.DataFrame({"layer": each.layer, "length": lengths, "entropy": each.entropy.cpu().numpy()})
                for each in _layer_entropies(model, batch.to(model.rankable.device))
            ]
    return _by_length(pd.concat(rows, ignore_index=True))


def entropy_of(weights: Tensor) -> Tensor:
    """Return the entropy in nats over the last axis of weights (..., L), normalised to sum to 1: (...)."""
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return torch.special.entr(weights).sum(-1)


def _layer_entropies(model: Model, batch: Batch) -> list[LayerEntropy]:
    layers, readout = model.attention_layers(batch), model.encode(batch).weights
    entropies = [
        LayerEntropy(f"layer {number}", entropy_of(weights).mean(1))
        for number, weights in enumerate([] if layers is None else layers.from_last_state(), start=1)
        if weights is not None
    ]
    return entropies if readout is None else [*entropies, LayerEntropy(READOUT, entropy_of(readout))]


def _by_length(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.assign(
        group=np.searchsorted(LENGTH_BINS, frame["length"], side="right"),
        effective_events=np.exp(frame["entropy"]),
        normalised_entropy=frame["entropy"] / np.log(frame["length"].where(frame["length"] > 1)),
    )
    groups = frame.groupby(["layer", "group"], sort=True)
    means = groups[["length", "entropy", "effective_events", "normalised_entropy"]].mean()
    return means.assign(n_users=groups.size()).reset_index().drop(columns="group")
