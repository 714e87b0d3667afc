"""Attention of a sequence model as `Model` specifies it: layer weights, readout weights, attended values, heads.

Shapes: B users, S encoder positions (see `memory.EncoderInputs`), L events, H heads, D channels.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.attention.multi_head import from_heads, to_heads
from attnrec.dataset import Batch
from attnrec.encoders import Encoder, SelfAttention
from attnrec.encoders.attention import Block
from attnrec.models.attention_weights import AttentionLayers, ReadoutWeights
from attnrec.models.head_weights import Head, encoder_head_weights, readout_head_weights
from attnrec.models.item_scores import ItemScorer, VectorEncoding
from attnrec.models.sequence.memory import EncoderInputs
from attnrec.models.sequence.objectives import appended_event_numbers
from attnrec.models.sequence.readouts import ItemSum, Last, Pooling, Readout


class Interpretable(Protocol):
    """The parts of `SequenceModel` that these functions use."""

    encoder: Encoder
    readout: Readout
    item_scorer: ItemScorer
    masks_items: bool
    max_length: int

    def encoder_inputs(self, batch: Batch) -> EncoderInputs: ...
    def encoder_arguments(self, inputs: EncoderInputs, batch: Batch) -> dict[str, Tensor]: ...
    def states(self, vectors: Tensor, batch: Batch, table: Tensor) -> Tensor: ...
    def item_vectors(self) -> Tensor: ...


def attention_layers(model: Interpretable, batch: Batch) -> AttentionLayers | None:
    """See `Model.attention_layers`."""
    inputs = model.encoder_inputs(batch)
    weights = model.encoder.attention_weights(inputs.vectors, **model.encoder_arguments(inputs, batch))
    if not weights:
        return None
    residual = isinstance(model.encoder, SelfAttention)
    return AttentionLayers(
        weights,
        inputs.lengths,
        _event_numbers(model, inputs, batch),
        batch.real,
        supports_rollout=residual and isinstance(model.readout, (Last, Pooling, ItemSum)),
    )


def readout_weights(model: Interpretable, batch: Batch) -> ReadoutWeights | None:
    """See `Model.readout_weights`."""
    table, readout, scorer = model.item_vectors(), model.readout, model.item_scorer
    if not isinstance(readout, (Pooling, ItemSum)):
        return None
    vectors = F.embedding(batch.items, table, padding_idx=0)
    values = readout.values(vectors)
    return ReadoutWeights(
        readout.weights(model.states(vectors, batch, table), lengths=batch.lengths),
        parts=lambda weights: readout.parts(weights, values),
        scores=lambda users, items=None: VectorEncoding(scorer, table, users, None, None).scores(items),
    )


def last_layer_values(model: Interpretable, batch: Batch) -> Tensor | None:
    """Return what the last layer's attention adds to the last state from each event, (B, L, D).

    None where the user vector is not the last state of self-attention whose weights are probabilities.
    """
    block = model.encoder.blocks[-1] if isinstance(model.encoder, SelfAttention) and model.encoder.blocks else None
    if not (isinstance(model.readout, Last) and isinstance(block, Block)):
        return None
    attention, inputs = block.attention, []
    hook = attention.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        layers = attention_layers(model, batch)
    finally:
        hook.remove()
    if layers is None or any(weights is None for weights in layers.weights):
        return None
    weights = layers.from_last_state()[-1]
    assert weights is not None, "all layers have weights"
    values = to_heads(attention.project_in(inputs[0]).chunk(3, dim=-1)[2], attention.heads)
    weighted = from_heads(weights[..., None] * values)
    return layers.by_event(F.linear(weighted, attention.project_out.weight))


def head_weights(model: Interpretable) -> dict[Head, list[Tensor]]:
    """See `Model.head_weights`."""
    weights, readout = encoder_head_weights(model.encoder.modules()), model.readout
    if isinstance(readout, Pooling):
        weights |= readout_head_weights(readout.item_values, readout.pooling.heads)
    return weights


def _event_numbers(model: Interpretable, inputs: EncoderInputs, batch: Batch) -> Tensor:
    """See `AttentionLayers.event_numbers`, (B, S)."""
    if model.masks_items:  # a masked position follows the history; the oldest event is dropped if necessary
        numbers = appended_event_numbers(batch, max_length=model.max_length)
    else:
        n_events = batch.items.shape[1]
        numbers = torch.arange(1, n_events + 1, device=batch.items.device).expand(len(batch.items), -1)
    if inputs.window_positions is None:
        return numbers
    return torch.zeros_like(inputs.times).scatter(1, inputs.window_positions, numbers)
