"""Attention weights of one history by layer and head, and contributions by head of the readout.

Shapes: B = 1 user, H heads, S encoder positions, L history events, D channels, n items, R maps.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attention import AttentionKernel
from attnrec.dataset import Batch
from attnrec.models import Model
from attnrec.models.attention_weights import ReadoutWeights
from attnrec.models.base import EncodedHistories


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention weights of the query from which the user vector is read, one map per layer and head.

    Attributes:
        names: "layer 1 head 1" (layer 1 is the first layer), ..., "readout head 4"; without the head number if there
            is only one head. (R,).
        weights: (R, L), at least 0. A row sums to 1 minus the weight on positions that are not events of the history:
            learned slots, the compressed memory, and the mask token of a masked-item model.
        missing_reason: why there are no maps, as the end of an error message; "" if there are.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    missing_reason: str = ""


NO_EVENTS = AttentionMaps((), np.zeros((0, 0)), "a history without events")


def contributions_by_head(readout: ReadoutWeights, encoded: Any, items: Tensor) -> Tensor:
    """Return the part of each readout head in the contributions to items (1, n).

    Args:
        readout: attention weights and values of the readout for the history.
        encoded: the encoded history, with parts (`models.item_scores.VectorEncoding`).
        items: item rows.

    Returns:
        (1, L, n, H), in score units; the sum over H is the contributions.
    """
    heads = [replace(encoded, parts=parts).contributions(items) for parts in readout.parts_by_head()]
    return torch.stack(heads, dim=-1)


def attention_maps(
    model: Model, batch: Batch, *, encoded: EncodedHistories, readout: ReadoutWeights | None
) -> AttentionMaps:
    """Return the attention weights of every layer that has them, and of the readout.

    Args:
        model: any, in evaluation mode.
        batch: one user with at least one event.
        encoded: the encoded batch.
        readout: weights of the readout heads for the batch; None for a readout without heads.
    """
    layers = model.attention_layers(batch)
    maps: dict[str, Tensor] = {}
    for number, weights in enumerate([] if layers is None else layers.from_last_state(), start=1):
        if layers is not None and weights is not None:
            maps |= _by_head_name(f"layer {number}", layers.by_event(weights.mT)[0].mT)
    if readout is not None:
        maps |= _by_head_name("readout", readout.weights[0])
    elif encoded.weights is not None:
        maps["readout"] = encoded.weights[0]
    if not maps:
        return AttentionMaps((), np.zeros((0, int(batch.lengths[0]))), _missing_reason(model))
    weights = torch.stack(list(maps.values()))[:, : int(batch.lengths[0])]
    return AttentionMaps(tuple(maps), weights.double().cpu().numpy())


def _by_head_name(layer: str, weights: Tensor) -> dict[str, Tensor]:
    """Split weights (H, L) into one row per head name."""
    return {layer if len(weights) == 1 else f"{layer} head {head}": row for head, row in enumerate(weights, start=1)}


def _missing_reason(model: Model) -> str:
    encoder = getattr(model, "encoder", None)
    kernels = (
        [kernel for kernel in encoder.modules() if isinstance(kernel, AttentionKernel)] if encoder is not None else []
    )
    if not kernels:
        return f"{model.description}, which has no attention"
    kinds = sorted({type(kernel).__name__ for kernel in kernels if kernel.weights_kind != "normalised"})
    return f"{model.description}, whose attention ({', '.join(kinds)}) has weights that do not sum to 1"
