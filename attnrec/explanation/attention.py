"""Where attention goes in one history, layer by layer and head by head, and what each head of the readout adds.

Shapes: B = 1 user, H heads, S positions that the encoder sees, L positions of the history, D channels, n items.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attention import AttentionKernel
from attnrec.attribution import ReadoutWeights
from attnrec.dataset import Batch
from attnrec.models import Model, SequenceModel
from attnrec.models.base import EncodedHistories
from attnrec.models.sequence.objectives import places_asked


@dataclass(frozen=True, eq=False)
class Attention:
    """Shares of attention from where the user is read.

    Attributes:
        rows: "layer 1 head 1" (layer 1 is next to the items), ..., "readout head 4"; without a number of the head where
            there is one.
        shares: (rows, L), at least 0. A row sums to 1 less what went elsewhere: to learned slots, to the compressed
            memory of older events, to the hidden event that a model of masked items is asked at.
        why_none: after "got", where there is no row.
    """

    rows: tuple[str, ...]
    shares: NDArray[np.float64]
    why_none: str = ""


NO_EVENTS = Attention((), np.zeros((0, 0)), "a history without events")


def by_head(weighed: ReadoutWeights, encoded: Any, items: Tensor) -> Tensor:
    """Each head's part of the contributions to items (1, n): (1, L, n, H), summed over H they are the contributions.

    Args:
        weighed: of the same history.
        encoded: with parts (`models.item_scores.VectorEncoding`).
        items: item rows.
    """
    heads = [replace(encoded, parts=parts).contributions(items) for parts in weighed.by_head()]
    return torch.stack(heads, dim=-1)


def attention_of(model: Model, batch: Batch, *, encoded: EncodedHistories, weighed: ReadoutWeights | None) -> Attention:
    """Shares of attention in every layer that has them, and in the readout.

    Args:
        model: any, in evaluation mode.
        batch: one user with at least one event.
        encoded: of the batch.
        weighed: of the batch, where the readout has heads.
    """
    layers = model.shares(batch)
    found: dict[str, Tensor] = {}
    for number, shares in enumerate(layers, start=1):
        if shares is not None:
            found |= _named(f"layer {number}", _of_events(model, batch, shares[0]))
    if weighed is not None:
        found |= _named("readout", weighed.weights[0])
    elif encoded.weights is not None:
        found["readout"] = encoded.weights[0]
    if not found:
        return Attention((), np.zeros((0, int(batch.lengths[0]))), _why_none(model, layers))
    real = torch.stack(list(found.values()))[:, : int(batch.lengths[0])]
    return Attention(tuple(found), real.double().cpu().numpy())


def _named(layer: str, shares: Tensor) -> dict[str, Tensor]:
    """Shares (H, L) by name of the head."""
    return {layer if len(shares) == 1 else f"{layer} head {head}": row for head, row in enumerate(shares, start=1)}


def _of_events(model: Model, batch: Batch, shares: Tensor) -> Tensor:
    """Shares of positions that the encoder sees (H, S), by event of the history, (H, L)."""
    assert isinstance(model, SequenceModel), "other models have no layers that attend"
    seen = model.seen(batch)
    if seen.at is not None:
        return shares[:, seen.at[0]]
    if not model.masks:
        return shares
    # a hidden event stands behind the history, and where there is no room the oldest went
    places = places_asked(batch, max_length=model.max_length).expand(len(shares), -1)
    return shares.new_zeros(len(shares), batch.items.shape[1] + 1).scatter_add(1, places, shares)[:, 1:]


def _why_none(model: Model, layers: list[Tensor | None]) -> str:
    encoder = getattr(model, "encoder", None)
    kernels = [kernel for kernel in encoder.modules() if isinstance(kernel, AttentionKernel)] if encoder is not None else []
    if not layers and not kernels:
        return f"{model.description}, which has no attention"
    kinds = sorted({type(kernel).__name__ for kernel in kernels if kernel.weights_are != "shares"})
    return f"{model.description}, whose attention ({', '.join(kinds)}) weighs events by numbers that are no shares"
