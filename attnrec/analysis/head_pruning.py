"""Head pruning: the metric lost without each attention head, and a copy of the model without some heads.

The importance of a head is the loss of the metric when it alone is masked (Michel, Levy & Neubig 2019,
arXiv:1905.10650); Voita et al. 2019 (arXiv:1905.09418) also found that few heads carry most of a model. Heads can be
redundant, so these losses do not add up: `pruning_curve` measures the loss without several heads.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import pandas as pd
from torch import Tensor

from attnrec.dataset import Holdout
from attnrec.evaluation.evaluator import evaluate
from attnrec.evaluation.metrics import RANK_METRICS, metric_name
from attnrec.models import Model
from attnrec.models.head_weights import Head


def list_heads(model: Model) -> list[Head]:
    """Return all heads that can be masked, layer by layer; empty for a model without attention heads.

    The heads of GAT's graph are not included: scoring reads their result, the item vectors.
    """
    return list(model.head_weights())


def head_importance(
    model: Model, holdout: Holdout, *, metric: str = "ndcg_at_10", filter_viewed: bool = True
) -> pd.DataFrame:
    """Compute the loss of the metric when one head alone is masked: one evaluation per head, and one of all heads.

    Args:
        model: trained on the catalogue of `holdout`; its weights are restored afterwards.
        holdout: the validation part, if heads are selected by the result and evaluated on the test part.
        metric: a rank metric with a k, such as ndcg_at_10.
        filter_viewed: as in `evaluate`.

    Returns:
        layer, head, metric_without and drop (the metric of the full model minus metric_without; higher means more
        important), one row per head, most important first (ties: the order of `list_heads`).

    Raises:
        ValueError: for a model without heads or an unknown metric.
    """
    heads = list_heads(model)
    full = _evaluate_without(model, holdout, (), metric=metric, filter_viewed=filter_viewed)
    values = [_evaluate_without(model, holdout, [head], metric=metric, filter_viewed=filter_viewed) for head in heads]
    table = pd.DataFrame(heads, columns=["layer", "head"])
    table = table.assign(metric_without=values, drop=[full - value for value in values])
    return table.sort_values("drop", ascending=False, kind="stable", ignore_index=True)


def pruning_curve(
    model: Model,
    holdout: Holdout,
    importance: pd.DataFrame,
    *,
    metric: str = "ndcg_at_10",
    filter_viewed: bool = True,
) -> pd.DataFrame:
    """Compute the metric as heads are removed one after the other, the last row of `importance` first.

    Args:
        model: as in `head_importance`.
        holdout: held-out events; on those that `importance` was computed on, the curve is optimistic.
        importance: every head once, most important first; any frame with the columns layer and head.
        metric: a rank metric with a k.
        filter_viewed: as in `evaluate`.

    Returns:
        One row per number of removed heads, from 1 to all: n_removed, layer and head (the one removed in this row),
        metric, and change (from the full model; below 0 is worse).

    Raises:
        ValueError: if `importance` does not match the model's heads, and as `head_importance`.
    """
    order, heads = least_important_heads(importance, len(importance)), list_heads(model)
    if sorted(order) != sorted(heads):
        raise ValueError(
            f"importance must name every head of the model once, got {order} for {heads}; "
            "compute it with head_importance for this model"
        )
    full = _evaluate_without(model, holdout, (), metric=metric, filter_viewed=filter_viewed)
    counts = range(1, len(order) + 1)
    values = [_evaluate_without(model, holdout, order[:n], metric=metric, filter_viewed=filter_viewed) for n in counts]
    curve = pd.DataFrame(order, columns=["layer", "head"]).assign(metric=values, change=[x - full for x in values])
    curve.insert(0, "n_removed", counts)
    return curve


def least_important_heads(importance: pd.DataFrame, n: int) -> list[Head]:
    """Return the last n heads of an importance table, the least important first."""
    last = importance[::-1].head(n)
    return [(str(layer), int(head)) for layer, head in zip(last["layer"], last["head"], strict=True)]


def prune_heads(model: Model, heads: Iterable[Head]) -> Model:
    """Return a copy of the model without some of its heads; its scores equal those under `mask_heads` bit for bit.

    The copy is not smaller or faster: config and shapes stay the same, so it is saved and loaded like any model, and
    the weights of removed heads are zeros. Further training would change them again. Attention weights of the readout
    (`EncodedHistories.weights`) still include a removed head; contributions do not.

    Raises:
        ValueError: for a model without heads, or an unknown head.
    """
    pruned = deepcopy(model)
    for weight in _weights_to_zero(pruned, heads):
        weight.zero_()
    return pruned


@contextmanager
def mask_heads(model: Model, heads: Iterable[Head]) -> Iterator[None]:
    """Mask heads inside the block; afterwards, also after an error, all weights are restored bit for bit.

    A masked head of self-attention adds nothing to its layer's output. A head of the readout has C channels of the
    user vector: they become 0, as those of the events' values, so a score is still the sum of its contributions. The
    norm of the user vector is that of the other channels. Biases of output projections belong to no head and stay.

    Raises:
        ValueError: as `prune_heads`.
    """
    weights = _weights_to_zero(model, heads)
    copies = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.zero_()
        yield
    finally:
        for weight, copy in zip(weights, copies, strict=True):
            weight.copy_(copy)


def _evaluate_without(
    model: Model, holdout: Holdout, heads: Sequence[Head], *, metric: str, filter_viewed: bool
) -> float:
    """The metric without these heads."""
    name, _, k = metric.rpartition("_at_")
    if name not in RANK_METRICS or not k.isdecimal() or int(k) < 1:
        examples = ", ".join(metric_name(name, 10) for name in RANK_METRICS)
        raise ValueError(f"metric must be a rank metric with a k, got {metric!r}; choose one such as {examples}")
    with mask_heads(model, heads):
        evaluation = evaluate(model, holdout, ks=(int(k),), filter_viewed=filter_viewed, intervals=False)
    return evaluation.summary[metric_name(name, int(k))]


def _weights_to_zero(model: Model, heads: Iterable[Head]) -> list[Tensor]:
    """The weights that remove these heads when they are 0."""
    weights, heads = model.head_weights(), list(heads)
    if not weights:
        raise ValueError(
            f"pruning needs a model with attention heads, got {model.kind!r} without heads; "
            "choose one such as attnrec or sasrec"
        )
    unknown = [head for head in heads if head not in weights]
    if unknown:
        raise ValueError(f"heads must be heads of the model, got {unknown[0]!r}; choose from {list(weights)}")
    return [weight.detach() for head in heads for weight in weights[head]]
