"""Attribution methods: how much each event of a history matters for the score of an item.

`contribution` is the exact decomposition of the score; `leave_one_out` is the change of the score when an event is
removed; the other methods are from the literature, or controls that a useful method must outperform.
Shapes: B users, L positions, N = n_items + 1 item rows, n requested items.
"""

import torch
from torch import Tensor

from attnrec.attribution.attention import ATTENTION_ROLLOUT, VALUE_NORM
from attnrec.attribution.controls import ITEM_COSINE, POPULARITY, RANDOM, RECENCY
from attnrec.attribution.gradients import GRADIENT_X_INPUT, INTEGRATED_GRADIENTS
from attnrec.attribution.lime import LIME
from attnrec.attribution.method import Method, Requirement
from attnrec.attribution.model_reasons import CONTRIBUTION, WEIGHT
from attnrec.attribution.removal import LEAVE_ONE_OUT, remove_events, score_without_events
from attnrec.attribution.renormalized import RENORMALIZED
from attnrec.attribution.shapley import SHAPLEY
from attnrec.config import registered
from attnrec.dataset import Batch
from attnrec.models import Model

METHODS: dict[str, Method] = {
    "contribution": CONTRIBUTION,
    "weight": WEIGHT,
    "leave_one_out": LEAVE_ONE_OUT,
    "renormalized": RENORMALIZED,
    "attention_rollout": ATTENTION_ROLLOUT,
    "value_norm": VALUE_NORM,
    "gradient_x_input": GRADIENT_X_INPUT,
    "integrated_gradients": INTEGRATED_GRADIENTS,
    "shapley": SHAPLEY,
    "lime": LIME,
    "random": RANDOM,
    "recency": RECENCY,
    "item_cosine": ITEM_COSINE,
    "popularity": POPULARITY,
}
"""Name -> method. To add one: write the function, a `Method` next to it, and one line here."""


def attribute(
    model: Model, batch: Batch, items: Tensor, *, method: str, seed: int = 0, counts: Tensor | None = None
) -> Tensor:
    """Compute the attribution of each item's score to each event, by one method.

    Args:
        model: any model; it is put into evaluation mode.
        batch: B users with histories of length L, padded on the right, on any device.
        items: row numbers of the n items, (B, n).
        method: a name in `METHODS`.
        seed: seed of random methods; their numbers depend on the seed, the history and the item, not on the batch.
        counts: number of training events of each item row, (N,); used by `popularity` only.

    Returns:
        (B, L, n) on the model's device; a higher value means that the event increases the score more; 0 at padding.
        Units depend on the method.

    Raises:
        ValueError: for an unknown method, a method that the model does not support, or missing counts.
    """
    selected, device = registered(METHODS, method, setting="method"), model.rankable.device
    model.eval()
    if not selected.works_for(model):
        others = ", ".join(name for name, other in METHODS.items() if other.works_for(model))
        raise ValueError(
            f"{method} needs {selected.requirement.description}, got {model.description}; choose one of {others}"
        )
    options = {"counts": counts} if selected.takes_counts else {}
    with torch.no_grad():
        return selected.function(model, batch.to(device), items.to(device), seed=seed, **options)


__all__ = ["METHODS", "Method", "Requirement", "attribute", "remove_events", "score_without_events"]
