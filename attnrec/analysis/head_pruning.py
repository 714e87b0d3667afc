"""Which attention heads a model needs: what its ranking loses without each of them, and a copy without the others.

A head's importance is the loss when it alone is silenced (Michel, Levy & Neubig 2019, arXiv:1905.10650); that few
heads carry most of a model is also what Voita et al. 2019 (arXiv:1905.09418) found. Heads can stand in for one
another, so these losses do not add up: what several cost together, `pruning_curve` measures.
Shapes: D = H * C channels, C of them for each of H heads; weights of linear layers are (out, in).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import pandas as pd
from torch import Tensor, nn

from attnrec.analysis.attention_spread import READOUT
from attnrec.attention import HSTUBlock, ItemValues, MultiHeadAttention
from attnrec.attention.memory import Memory
from attnrec.dataset import Holdout
from attnrec.evaluation.evaluator import evaluate
from attnrec.evaluation.metrics import RANK_METRICS, metric_name
from attnrec.models import GAT, Model, SequenceModel
from attnrec.models.sequence.readouts import Pooling

Head = tuple[str, int]
"""A layer ("layer 1" is next to the items, "readout" is the last) and a number in it, from 0."""


def heads_of(model: Model) -> list[Head]:
    """All heads that can be silenced, layer by layer; none for a model that attends without heads, or not at all.

    The heads of GAT's graph are not among them: what they did is in its item vectors.
    """
    return list(_weights_of_heads(model))


def head_importance(
    model: Model, holdout: Holdout, *, metric: str = "ndcg_at_10", filter_viewed: bool = True
) -> pd.DataFrame:
    """What the metric loses when one head alone is silenced, for every head: one evaluation each, and one of all.

    Args:
        model: trained on the catalogue of `holdout`; its weights are afterwards what they were.
        holdout: the validation questions, if heads are to be chosen by this and judged on the test part.
        metric: a rank metric at a k.
        filter_viewed: as in `evaluate`.

    Returns:
        layer, head, metric_without and drop, one row per head, most important first (ties: the order of `heads_of`).

    Raises:
        ValueError: for a model without heads or an unknown metric.
    """
    heads = heads_of(model)
    whole = _measured(model, holdout, (), metric=metric, filter_viewed=filter_viewed)
    without = [_measured(model, holdout, [head], metric=metric, filter_viewed=filter_viewed) for head in heads]
    table = pd.DataFrame(heads, columns=["layer", "head"])
    table = table.assign(metric_without=without, drop=[whole - each for each in without])
    return table.sort_values("drop", ascending=False, kind="stable", ignore_index=True)


def pruning_curve(
    model: Model,
    holdout: Holdout,
    importance: pd.DataFrame,
    *,
    metric: str = "ndcg_at_10",
    filter_viewed: bool = True,
) -> pd.DataFrame:
    """What the metric becomes when one head after the other is removed, the last row of `importance` first.

    Args:
        model: as in `head_importance`.
        holdout: the questions; on those that `importance` was measured on, the curve flatters the choice.
        importance: every head once, most important first; any frame with the columns layer and head.
        metric: a rank metric at a k.
        filter_viewed: as in `evaluate`.

    Returns:
        One row per number of heads removed, from 1 until none is left: n_removed, layer and head (the one removed
        now), metric, and change from the whole model, below 0 where it is worse.

    Raises:
        ValueError: when `importance` is not of this model's heads, and as `head_importance`.
    """
    order, known = least_important_heads(importance, len(importance)), heads_of(model)
    if sorted(order) != sorted(known):
        rule = "importance must name every head of the model once"
        raise ValueError(f"{rule}, got {order} for {known}; measure it on this model")
    whole = _measured(model, holdout, (), metric=metric, filter_viewed=filter_viewed)
    counts = range(1, len(order) + 1)
    values = [_measured(model, holdout, order[:n], metric=metric, filter_viewed=filter_viewed) for n in counts]
    curve = pd.DataFrame(order, columns=["layer", "head"]).assign(metric=values, change=[x - whole for x in values])
    curve.insert(0, "n_removed", counts)
    return curve


def least_important_heads(importance: pd.DataFrame, n: int) -> list[Head]:
    """The n last heads of an importance table, the least important first."""
    last = importance[::-1].head(n)
    return [(str(layer), int(head)) for layer, head in zip(last["layer"], last["head"], strict=True)]


def prune_heads(model: Model, heads: Iterable[Head]) -> Model:
    """A copy of the model without some of its heads, which scores bit for bit as the `silenced` one does.

    It is no smaller and no faster: config and shapes stay, so that it is saved and loaded like any other, and the
    weights of the removed heads are zeros. Trained further, they would come to life again.
    A readout's shares of attention (`EncodedHistories.weights`) still count a removed head; contributions do not.

    Raises:
        ValueError: for a model without heads, or a head that it does not have.
    """
    pruned = deepcopy(model)
    for weight in _silencing(pruned, heads):
        weight.zero_()
    return pruned


@contextmanager
def silenced(model: Model, heads: Iterable[Head]) -> Iterator[None]:
    """Silence heads inside the block; afterwards, errors or not, every weight is what it was, bit for bit.

    A head of self-attention then adds nothing to its layer's output. A head of the readout owns C channels of the
    user vector: they are 0, as are those of the events' values, so that a score remains the sum of its contributions.
    The user's length is that of the channels left. The biases of output projections are no head's and stay.

    Raises:
        ValueError: as `prune_heads`.
    """
    weights = _silencing(model, heads)
    kept = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.zero_()
        yield
    finally:
        for weight, was in zip(weights, kept, strict=True):
            weight.copy_(was)


def _measured(model: Model, holdout: Holdout, heads: Sequence[Head], *, metric: str, filter_viewed: bool) -> float:
    """The metric without these heads."""
    name, _, k = metric.rpartition("_at_")
    if name not in RANK_METRICS or not k.isdecimal() or int(k) < 1:
        known = ", ".join(metric_name(name, 10) for name in RANK_METRICS)
        raise ValueError(f"metric must be a rank metric at a k, got {metric!r}; take one such as {known}")
    with silenced(model, heads):
        found = evaluate(model, holdout, ks=(int(k),), filter_viewed=filter_viewed, intervals=False)
    return found.summary[metric_name(name, int(k))]


def _silencing(model: Model, heads: Iterable[Head]) -> list[Tensor]:
    """The weights that silence these heads when they are 0."""
    owned, heads = _weights_of_heads(model), list(heads)
    if not owned:
        raise ValueError(
            f"pruning needs a model whose attention has heads, got {model.kind!r} without any; "
            "take one such as attnrec or sasrec"
        )
    unknown = [head for head in heads if head not in owned]
    if unknown:
        raise ValueError(f"heads must be the model's own, got {unknown[0]!r}; take some of {list(owned)}")
    return [weight.detach() for head in heads for weight in owned[head]]


def _weights_of_heads(model: Model) -> dict[Head, list[Tensor]]:
    """For each head, views of the weights through which alone it is heard."""
    found: dict[Head, list[Tensor]] = {}
    layers = model.encoder.modules() if isinstance(model, SequenceModel) else ()
    attending = [layer for layer in layers if isinstance(layer, MultiHeadAttention | HSTUBlock)]
    for number, layer in enumerate(attending, start=1):
        for head, own in enumerate(_channels(layer.project_out.in_features, layer.heads)):
            found[f"layer {number}", head] = [layer.project_out.weight[:, own], *_before_norm(layer, head, own)]
    if isinstance(model, SequenceModel) and isinstance(model.readout, Pooling):
        found |= _of_values(model.readout.worth, model.readout.pooling.heads)
    if isinstance(model, GAT):
        found |= _of_values(model.values, model.pooling.heads)
    return found


def _before_norm(layer: MultiHeadAttention | HSTUBlock, head: int, own: slice) -> list[Tensor]:
    """In HSTU's block a norm over all heads hears each of them, too: what it attends to must be 0 before."""
    if not isinstance(layer, HSTUBlock):
        return []
    dim = layer.project_out.in_features
    values = slice(dim + own.start, dim + own.stop)  # behind the gates u; silu(0) is 0
    weights = [layer.project_in.weight[values], layer.project_in.bias[values]]
    return [*weights, layer.kernel.slot_values[head]] if isinstance(layer.kernel, Memory) else weights


def _of_values(worth: ItemValues, heads: int) -> dict[Head, list[Tensor]]:
    last = worth.network[-1]
    assert isinstance(last, nn.Linear), "values end in a linear layer"
    owned = enumerate(_channels(last.out_features, heads))
    return {(READOUT, head): [worth.linear.weight[own], last.weight[own], last.bias[own]] for head, own in owned}


def _channels(dim: int, heads: int) -> list[slice]:
    return [slice(start, start + dim // heads) for start in range(0, dim, dim // heads)]
