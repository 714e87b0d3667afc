"""The effect of an event from one forward pass: its attention weight is removed and the others are renormalised.

Leave-one-out encodes a history of L events L + 1 times. If the user vector is a sum of weighted values, most of the
change without an event follows from one pass: its part is removed, and the weights of the other events grow by the
factor 1 / (1 - its weight). The approximation: the states of the other events are those of the full history.
Shapes: B users, L positions, D channels, n requested items.
"""

import torch
from torch import Tensor

from attnrec.attribution.method import Method, Requirement, one_event
from attnrec.dataset import Batch
from attnrec.models import Model

MIN_REST = 1e-6
"""Where the other weights sum to less than this, the history counts as empty without the event."""


def renormalized(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Compute the score minus the score with an event's attention weight 0 and the other weights renormalised.

    Args:
        model: whose user vector is a sum of weighted values.
        batch: B users.
        items: item rows, (B, n).
        seed: not used.

    Returns:
        (B, L, n), in score units, 0 at padding.
    """
    del seed
    readout = model.readout_weights(batch)
    assert readout is not None, "the requirement is checked before"
    all_parts = readout.parts(readout.weights)
    users_without = torch.zeros_like(all_parts)
    for parts, weights in zip(readout.parts_by_head(), readout.weights.unbind(1), strict=True):
        rest = (1 - weights)[..., None]
        others = (parts.sum(1, keepdim=True) - parts) / rest.clamp(min=MIN_REST)
        users_without += others * (rest > MIN_REST)
    n_events = batch.items.shape[1]
    repeated_items = items.repeat_interleave(n_events, dim=0)
    scores_without = readout.scores(users_without.flatten(0, 1), repeated_items).unflatten(0, (len(items), n_events))
    full = readout.scores(all_parts.sum(1), items)
    return (full[:, None] - scores_without) * batch.real[..., None]


RENORMALIZED = Method(
    renormalized,
    source="this project",
    requirement=Requirement(
        "a user vector that is a sum of weighted values",
        lambda model: model.exact_reasons and model.readout_weights(one_event(model)) is not None,
    ),
)
