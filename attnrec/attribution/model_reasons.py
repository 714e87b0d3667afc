"""Attributions that the model itself provides: its contributions, and the attention weights of its readout.

Shapes: B users, L positions, n requested items.
"""

from torch import Tensor

from attnrec.attribution.method import Method, Requirement, one_event, repeat_for_items
from attnrec.dataset import Batch
from attnrec.models import Model


def contribution(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Return the exact contribution of each event to the score (see `Model.contributions`).

    Args:
        model: with exact contributions.
        batch: B users.
        items: item rows, (B, n).
        seed: not used.

    Returns:
        (B, L, n), in score units, 0 at padding; the sum over L is the score minus the item bias.

    Raises:
        ReasonsError: for a model whose scores are not sums over the history.
    """
    del seed
    return model.contributions(batch, items)


def weight(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """Return the attention weight of each event in the readout, mean over heads; the same for every item.

    Args:
        model: whose `encode` returns weights.
        batch: B users.
        items: item rows, (B, n).
        seed: not used.

    Returns:
        (B, L, n), probabilities that sum to at most 1 over L, 0 at padding.
    """
    del seed
    weights = model.encode(batch).weights
    assert weights is not None, "the requirement is checked before"
    return repeat_for_items(items, weights)


CONTRIBUTION = Method(
    contribution,
    source="this project",
    requirement=Requirement("scores that are sums over the history", lambda model: model.exact_reasons),
    exact=True,
)
WEIGHT = Method(
    weight,
    source="Bahdanau et al. 2015, arXiv:1409.0473",
    requirement=Requirement(
        "a readout with attention over the events", lambda model: model.encode(one_event(model)).weights is not None
    ),
)
