"""What each event of a history has to do with a recommended item, by many methods; one type, one registry.

`contribution` is how the score was made; `leave_one_out` is what the score would be without the event; the others are
ways that the literature has, and controls that any of them has to beat.
Shapes: B users, L positions, N = n_items + 1 item rows, n items asked for.
"""

import torch
from torch import Tensor

from attnrec.attribution.attention import ATTENTION_ROLLOUT, VALUE_NORM
from attnrec.attribution.controls import ITEM_COSINE, POPULARITY, RANDOM, RECENCY
from attnrec.attribution.gradients import GRADIENT_X_INPUT, INTEGRATED_GRADIENTS
from attnrec.attribution.lime import LIME
from attnrec.attribution.method import Method, Need
from attnrec.attribution.model_reasons import CONTRIBUTION, WEIGHT
from attnrec.attribution.readout_weights import ReadoutWeights, weigh
from attnrec.attribution.removal import LEAVE_ONE_OUT, score_without_events, without
from attnrec.attribution.renormalized import RENORMALIZED
from attnrec.attribution.shapley import SHAPLEY
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
"""Name -> method. A new one is a function, its `Method` beside it, and one line here."""


def attribute(
    model: Model, batch: Batch, items: Tensor, *, method: str, seed: int = 0, counts: Tensor | None = None
) -> Tensor:
    """What each event has to do with each item, by one method.

    Args:
        model: any; it is put into evaluation mode.
        batch: B users with histories of length L, padded on the right, on any device.
        items: row numbers of the n items, (B, n).
        method: a name in `METHODS`.
        seed: for methods that draw; what they draw depends on it, the history and the item alone, not on the batch.
        counts: events of each item row in training, (N,); `popularity` alone reads them.

    Returns:
        (B, L, n) on the model's device; larger speaks more for the item, 0 at padding. Units differ by method.

    Raises:
        ValueError: for an unknown method, one that does not work for the model, or counts that are needed and missing.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}; take one of these")
    asked, device = METHODS[method], model.rankable.device
    model.eval()
    if not asked.works_for(model):
        others = ", ".join(name for name, other in METHODS.items() if other.works_for(model))
        raise ValueError(f"{method} needs {asked.needs.words}, got {model.description}; take one of {others}")
    more = {"counts": counts} if asked.takes_counts else {}
    with torch.no_grad():
        return asked.function(model, batch.to(device), items.to(device), seed=seed, **more)


__all__ = ["METHODS", "Method", "Need", "ReadoutWeights", "attribute", "score_without_events", "weigh", "without"]
