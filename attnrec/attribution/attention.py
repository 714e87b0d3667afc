"""Attribution by attention inside the model: attention rollout, and norms of attention-weighted values.

Neither depends on the requested item: the values are the same for every item.
Shapes: B users, S encoder positions, L positions of the history, D channels, n items.
"""

import torch
from torch import Tensor

from attnrec.attribution.method import Method, Requirement, one_event, repeat_for_items
from attnrec.dataset import Batch
from attnrec.models import Model


def attention_rollout(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Multiply the attention of all layers, each with the identity for its residual connection (paper, section 3).

    Heads are averaged and rows normalised to sum to 1. Rollout starts at the last state for the readout "last", and
    at all states with the readout's weights for a readout that pools them. Attention to compressed memory events or
    to a masked position is left out.

    Args:
        model: see `ATTENTION_ROLLOUT.requirement`.
        batch: B users.
        items: item rows, (B, n).
        seed: not used.

    Returns:
        (B, L, n), probabilities that sum to at most 1 over L, 0 at padding.
    """
    del seed
    layers, readout = model.attention_layers(batch), model.readout_weights(batch)
    assert layers is not None, "the requirement is checked before"
    if readout is None:
        row = torch.zeros(layers.event_numbers.shape, device=items.device).scatter(1, layers.last[:, None], 1.0)
    else:
        row = layers.by_position(readout.weights.mean(1))
    for weights in reversed(layers.weights):
        assert weights is not None, "the requirement is checked before"
        mixed = weights.mean(1) + torch.eye(weights.shape[-1], device=weights.device)
        row = (row[:, None] @ (mixed / mixed.sum(-1, keepdim=True))).squeeze(1)
    return repeat_for_items(items, layers.by_event(row))


def value_norm(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Compute the norm of what attention adds from each event, instead of the attention weight alone.

    For a readout that sums over the history: the norm of the event's weighted value, its part of the user vector.
    For the readout "last": the norm of the event's part in what the last layer's attention adds to the last state,
    which is the weighted values after the output projection. The heads' vectors are concatenated before the norm.

    Args:
        model: see `VALUE_NORM.requirement`.
        batch: B users.
        items: item rows, (B, n).
        seed: not used.

    Returns:
        (B, L, n), Euclidean norms, 0 at padding.
    """
    del seed
    values = model.attended_values(batch)
    assert values is not None, "the requirement is checked before"
    return repeat_for_items(items, values.norm(dim=-1))


def _supports_rollout(model: Model) -> bool:
    layers = model.attention_layers(one_event(model))
    return layers is not None and layers.supports_rollout and all(weights is not None for weights in layers.weights)


ATTENTION_ROLLOUT = Method(
    attention_rollout,
    source="Abnar & Zuidema 2020, arXiv:2005.00928",
    requirement=Requirement(
        "self-attention whose weights are probabilities, with the readout 'last', 'pooling' or 'item_sum'",
        _supports_rollout,
    ),
)
VALUE_NORM = Method(
    value_norm,
    source="Kobayashi et al. 2020, arXiv:2004.10102",
    requirement=Requirement(
        "a readout that sums over the history, or self-attention whose weights are probabilities with readout 'last'",
        lambda model: model.attended_values(one_event(model)) is not None,
    ),
)
