"""What the model itself says: its contributions, and the attention of its readout.

Shapes: B users, L positions, n items asked for.
"""

import torch
from torch import Tensor

from attnrec.attribution.method import Method, Need, same_for_all
from attnrec.dataset import Batch
from attnrec.models import Model


def contribution(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """How the score was made: what each event added to it (see `Model.contributions`).

    Args:
        model: with exact reasons.
        batch: B users.
        items: item rows, (B, n).
        seed: nothing is drawn.

    Returns:
        (B, L, n), in score units, 0 at padding; summed over L it is the score less the item's bias.

    Raises:
        ReasonsError: for a model whose scores are not sums over the history.
    """
    del seed
    return model.contributions(batch, items)


def weight(model: Model, batch: Batch, items: Tensor, *, seed: int = 0) -> Tensor:
    """The readout's share of attention for each event, mean over heads: the same for every item.

    Args:
        model: whose encoded histories have weights.
        batch: B users.
        items: item rows, (B, n).
        seed: nothing is drawn.

    Returns:
        (B, L, n), shares that sum to at most 1 over L, 0 at padding.
    """
    del seed
    weights = model.encode(batch).weights
    assert weights is not None, "a method is asked only of models that have what it needs"
    return same_for_all(items, weights)


@torch.no_grad()
def reads_with_weights(model: Model) -> bool:
    """Whether the model's readings have weights: one of a single event is made and looked at."""
    one = torch.ones(1, 1, dtype=torch.long, device=model.rankable.device)
    encoded = model.encode(Batch(one, one[0], one, weights=one.float(), events=one))
    return encoded.weights is not None


CONTRIBUTION = Method(
    contribution,
    source="this project",
    needs=Need("scores that are sums over the history", lambda model: model.exact_reasons),
    exact=True,
)
WEIGHT = Method(
    weight,
    source="Bahdanau et al. 2015, arXiv:1409.0473",
    needs=Need("a readout that attends to the events", reads_with_weights),
)
