"""The effect of an event at the price of one reading: the rest of the attention is dealt out among the others.

Leave-one-out reads a history of L events L + 1 times. Where the user is a sum of weighted values, most of what
changes without an event is known from the one reading: its own part goes, and the shares of the others grow by
1 / (1 - its share). What is not known is how the states of the others would have been without it; they stay.
Shapes: B users, L positions, D channels, n items asked for.
"""

import torch
from torch import Tensor

from attnrec.attribution.method import Method, Need
from attnrec.attribution.readout_weights import weigh
from attnrec.dataset import Batch
from attnrec.models import GAT, Model, SequenceModel
from attnrec.models.item_scores import VectorEncoding

LEFT = 1e-6
"""A share of at least 1 less this leaves nothing to deal out: what remains is the user without events."""


def renormalized(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """The score less what it would be if each event got no share and the shares of the others summed to 1 again.

    Args:
        model: whose user is a sum of weighted values.
        batch: B users.
        items: item rows, (B, n).
        seed: nothing is drawn.

    Returns:
        (B, L, n), in score units, 0 at padding.
    """
    del seed
    weighed = weigh(model, batch)
    assert weighed is not None, "a method is asked only of models that have what it needs"
    assert isinstance(model, (SequenceModel, GAT)), "what is weighed has a catalogue"
    without = torch.zeros_like(weighed.parts(weighed.weights))
    for parts, shares in zip(weighed.by_head(), weighed.weights.unbind(1), strict=True):
        rest = (1 - shares)[..., None]
        others = (parts.sum(1, keepdim=True) - parts) / rest.clamp(min=LEFT)
        without += others * (rest > LEFT)
    n_events = batch.items.shape[1]
    asked = items.repeat_interleave(n_events, dim=0)
    left = _scores(model, without.flatten(0, 1), asked).unflatten(0, (len(items), n_events))
    whole = _scores(model, weighed.parts(weighed.weights).sum(1), items)
    return (whole[:, None] - left) * batch.real[..., None]


def _scores(model: SequenceModel | GAT, users: Tensor, items: Tensor) -> Tensor:
    return VectorEncoding(model.item_scorer, model.item_vectors(), users, None, None).scores(items)


RENORMALIZED = Method(
    renormalized,
    source="this project",
    needs=Need(
        "a user that is a sum of weighted values",
        lambda model: isinstance(model, GAT) or (isinstance(model, SequenceModel) and model.exact_reasons),
    ),
)
