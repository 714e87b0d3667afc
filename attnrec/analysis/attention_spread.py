"""How many events a model attends to: entropy of its attention, by layer and by length of the history.

The effective number of events is exp(entropy), the number of equally weighted ones that would be as spread out
(Hill 1973, doi:10.2307/1934352, of order 1). What it says is where attention goes, not why an item is recommended: for
that there are contributions.
Shapes: B users, H heads, L positions.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Histories, user_batches
from attnrec.models import Model

READOUT = "readout"
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Histories are grouped by these: 1, 2 to 4, 5 to 9, ..."""

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class Spread:
    """Of one layer in one batch: entropy in nats of each user's attention, mean over heads, (B,)."""

    layer: str
    entropy: Tensor


def attention_spread(model: Model, histories: Histories, users: NDArray[np.int64]) -> pd.DataFrame:
    """Entropy and effective number of events of the attention that makes each user's state.

    Args:
        model: trained on the catalogue of `histories`.
        histories: what is known of the users.
        users: rows to look at, (U,); those without events are left out.

    Returns:
        One row per layer ("layer 1" is next to the items, "readout" is the last) and group of lengths: layer, length
        (the mean of the events read), n_users, entropy (nats), effective_events, normalised_entropy (entropy as a part of
        that of even attention; NaN for single events). The readout's heads are averaged before, other layers' after.
        Empty for a model without attention that is shares.
    """
    users = users[histories.lengths[users] > 0]
    rows = [pd.DataFrame({"layer": [], "length": [], "entropy": []})]
    model.eval()
    with torch.inference_mode():
        for _, batch in user_batches(
            histories, users, max_length=model.max_length, batch_size=BATCH_SIZE, memory_events=model.memory_events
        ):
            batch = batch.to(model.rankable.device)
            lengths = batch.lengths.cpu().numpy()
            found = [
                Spread(f"layer {number}", entropy_of(shares).mean(1))
                for number, shares in enumerate(model.shares(batch), start=1)
                if shares is not None
            ]
            weights = model.encode(batch).weights
            if weights is not None:
                found.append(Spread(READOUT, entropy_of(weights)))
            rows += [
                pd.DataFrame({"layer": each.layer, "length": lengths, "entropy": each.entropy.cpu().numpy()})
                for each in found
            ]
    return _grouped(pd.concat(rows, ignore_index=True))


def entropy_of(shares: Tensor) -> Tensor:
    """Entropy in nats over the last axis of shares (..., L), brought to sum to 1 first: (...)."""
    shares = shares / shares.sum(-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
    return torch.special.entr(shares).sum(-1)


def _grouped(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.assign(
        group=np.searchsorted(LENGTHS, frame["length"], side="right"),
        effective_events=np.exp(frame["entropy"]),
        normalised_entropy=frame["entropy"] / np.log(frame["length"].where(frame["length"] > 1)),
    )
    grouped = frame.groupby(["layer", "group"], sort=True)
    means = grouped[["length", "entropy", "effective_events", "normalised_entropy"]].mean()
    return means.assign(n_users=grouped.size()).reset_index().drop(columns="group")
