"""Attribution by attention inside the model: rollout through its layers, and the norms of what attention weighs.

Neither looks at the item asked for: what they give is the same for every item.
Shapes: B users, S positions that the encoder sees, L positions of the history, H heads, D channels, n items.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.attention import AttentionKernel
from attnrec.attention.multi_head import from_heads, to_heads
from attnrec.attribution.method import Method, Need, same_for_all
from attnrec.dataset import Batch
from attnrec.encoders import SelfAttention
from attnrec.encoders.attention import Block
from attnrec.models import GAT, Model, SequenceModel
from attnrec.models.sequence.memory import Seen
from attnrec.models.sequence.objectives import places_asked
from attnrec.models.sequence.readouts import ItemSum, Last, Pooling


def attention_rollout(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Attention multiplied through the layers, each with the identity for its residual (section 3 of the paper).

    Heads are averaged and rows brought to sum to 1. It starts at the last state where the readout is "last", and at
    all states by the readout's weights where that pools. What went to older events or to a hidden one is left out.

    Args:
        model: see `needs`.
        batch: B users.
        items: item rows, (B, n).
        seed: nothing is drawn.

    Returns:
        (B, L, n), shares that sum to at most 1 over L, 0 at padding.
    """
    del seed
    assert isinstance(model, SequenceModel), "a method is asked only of models that have what it needs"
    seen = model.seen(batch)
    row = _start(model, batch, seen)
    for shares in reversed(model.encoder.shares(seen.vectors, lengths=seen.lengths, times=seen.times)):
        assert shares is not None, "a method is asked only of models that have what it needs"
        mixed = shares.mean(1) + torch.eye(shares.shape[-1], device=shares.device)
        row = (row[:, None] @ (mixed / mixed.sum(-1, keepdim=True))).squeeze(1)
    return same_for_all(items, _of_events(model, batch, seen, row))


def value_norm(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """The length of what attention takes from each event, instead of its weight alone.

    Where the readout is a sum over the history: of the event's weighted value, its part of the user. Where it is the
    last state: of the event's part in what the last layer's attention adds to that state, weighted values through the
    layer's output projection. The heads' vectors are joined before they are measured.

    Args:
        model: see `needs`.
        batch: B users.
        items: item rows, (B, n).
        seed: nothing is drawn.

    Returns:
        (B, L, n), lengths of vectors, 0 at padding.
    """
    del seed
    if _sums_events(model):
        encoded = model.encode(batch)
        parts = getattr(encoded, "parts", None)
        assert isinstance(parts, Tensor), "what sums over the history has parts"
        return same_for_all(items, parts.norm(dim=-1) * batch.real)
    assert isinstance(model, SequenceModel), "a method is asked only of models that have what it needs"
    seen = model.seen(batch)
    return same_for_all(items, _of_events(model, batch, seen, _lengths_in_last_layer(model, seen)))


def _start(model: SequenceModel, batch: Batch, seen: Seen) -> Tensor:
    """Where the user is read, as shares of the states that the encoder gives, (B, S)."""
    states = torch.zeros(seen.vectors.shape[:2], device=seen.vectors.device)
    weights = model.encode(batch).weights
    if weights is None:
        return states.scatter(1, (seen.lengths - 1).clamp(min=0)[:, None], 1.0)
    return weights if seen.at is None else states.scatter(1, seen.at, weights)


def _lengths_in_last_layer(model: SequenceModel, seen: Seen) -> Tensor:
    """Of what the last layer's attention adds to the last state for each position it sees, (B, S)."""
    attention, given = _block(model, -1).attention, []
    hook = attention.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        shares = model.encoder.shares(seen.vectors, lengths=seen.lengths, times=seen.times)[-1]
    finally:
        hook.remove()
    assert shares is not None, "a method is asked only of models that have what it needs"
    users, last = torch.arange(len(seen.lengths), device=shares.device), (seen.lengths - 1).clamp(min=0)
    values = to_heads(attention.project_in(given[0]).chunk(3, dim=-1)[2], attention.heads)
    weighted = from_heads(shares[users, :, last][..., None] * values)
    return F.linear(weighted, attention.project_out.weight).norm(dim=-1)


def _of_events(model: SequenceModel, batch: Batch, seen: Seen, row: Tensor) -> Tensor:
    """What stands at positions that the encoder sees (B, S), by event of the history, (B, L)."""
    if seen.at is not None:
        row = row.gather(1, seen.at)
    if model.masks:  # a hidden event stands behind the history, and where there is no room the oldest went
        places = places_asked(batch, max_length=model.max_length)
        row = row.new_zeros(len(row), batch.items.shape[1] + 1).scatter_add(1, places, row)[:, 1:]
    return row * batch.real


def _block(model: SequenceModel, number: int) -> Block:
    assert isinstance(model.encoder, SelfAttention), "a method is asked only of models that have what it needs"
    block = model.encoder.blocks[number]
    assert isinstance(block, Block), "the stack is made of blocks"
    return block


def _attends_by_shares(model: Model) -> bool:
    if not (
        isinstance(model, SequenceModel) and isinstance(model.encoder, SelfAttention) and len(model.encoder.blocks)
    ):
        return False
    return all(kernel.weights_are == "shares" for kernel in model.encoder.modules() if isinstance(kernel, AttentionKernel))


def _sums_events(model: Model) -> bool:
    return isinstance(model, GAT) or (isinstance(model, SequenceModel) and model.exact_reasons)


def _can_be_rolled_out(model: Model) -> bool:
    return _attends_by_shares(model) and isinstance(getattr(model, "readout", None), (Last, Pooling, ItemSum))


def _has_weighed_values(model: Model) -> bool:
    return _sums_events(model) or (_attends_by_shares(model) and isinstance(getattr(model, "readout", None), Last))


ATTENTION_ROLLOUT = Method(
    attention_rollout,
    source="Abnar & Zuidema 2020, arXiv:2005.00928",
    needs=Need(
        "an attention encoder whose weights are shares, read by 'last', 'pooling' or 'item_sum'", _can_be_rolled_out
    ),
)
VALUE_NORM = Method(
    value_norm,
    source="Kobayashi et al. 2020, arXiv:2004.10102",
    needs=Need("a readout that sums over the history, or the last state of attention by shares", _has_weighed_values),
)
