"""From a model and one history to explanations: the history is read once, whatever the number of items.

Shapes: B = 1 user, L events that the model reads, n items asked for, H heads of the readout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attribution import METHODS, attribute, weigh
from attnrec.dataset import Batch, Histories, last_events
from attnrec.explanation.attention import NO_EVENTS, Attention, attention_of, by_head
from attnrec.explanation.explanation import CONTRIBUTION, Explanation
from attnrec.explanation.explanations import Explanations
from attnrec.explanation.neighbourhood import around_items
from attnrec.models import Model, ReasonsError
from attnrec.models.base import EncodedHistories
from attnrec.schema import DATETIME, EVENT, ITEM, WEIGHT

Array = NDArray[Any]


def explain_items(
    model: Model,
    histories: Histories,
    *,
    user: int,
    items: Sequence[int],
    method: str = CONTRIBUTION,
    known: Histories | None = None,
) -> Explanations:
    """What each event of one user's history has to do with the scores of some items.

    Args:
        model: any; "contribution" needs exact reasons, other methods need what `attnrec.attribution` says.
        histories: in the model's item rows.
        user: user row.
        items: item rows, at least one.
        method: a name in `attnrec.attribution.METHODS`.
        known: the log, in the model's item rows, for what one history alone does not say: how often items occur (for
            "popularity"), and the numbers of the types of events, where the model reads these.

    Raises:
        ReasonsError: for contributions of a model whose scores are not sums over the history.
        ValueError: for no item, a history without the order or the types of events that the model reads, an unknown
            method or one that does not work for the model.
    """
    if not len(items):
        raise ValueError("items must name at least one item, got none; give an item_id or a list of them")
    histories = _readable(model, histories, known)
    model.eval()
    window = last_events(histories, np.array([user]), max_length=model.max_length, memory_events=model.memory_events)
    batch, asked = window.to(model.rankable.device), torch.tensor([list(items)], device=model.rankable.device)
    read = _read(model, batch, asked, split=method == CONTRIBUTION)
    values = read.values
    if values is None:
        values = _attributed(model, batch, asked, method=method, known=known)
    events = _events(histories, window).assign(**{WEIGHT: read.weights})
    made = partial(
        Explanation,
        method=method,
        model=model.description,
        ordered=histories.ordered,
        attention=read.attention,
    )
    graphs = around_items(model, batch, asked, encoded=read.encoded, item_ids=histories.item_ids)
    found = []
    for place, item_id in enumerate(histories.item_ids.decode(np.asarray(items))):
        frame, bias = _with_values(events, method, values[:, place]), float(read.biases[place])
        score = bias + float(frame[method].sum()) if method == CONTRIBUTION else float(read.scores[place])
        heads = None if read.heads is None else read.heads[:, place]
        found.append(made(item_id, score, bias, frame, heads=heads, graph=graphs[place]))
    return Explanations(found)


@dataclass(frozen=True, eq=False)
class _Read:
    """One history: scores (n,), biases (n,), weights (L,); contributions (L, n), and by head (L, n, H), where split."""

    scores: Array
    biases: Array
    values: Array | None
    heads: Array | None
    weights: Array
    attention: Attention
    encoded: EncodedHistories


@torch.inference_mode()
def _read(model: Model, batch: Batch, asked: Tensor, *, split: bool) -> _Read:
    length, encoded = int(batch.lengths[0]), model.encode(batch)
    weighed = weigh(model, batch) if length else None
    contributions = _contributions(model, encoded, asked) if split else None
    heads = by_head(weighed, encoded, asked) if split and weighed is not None else None
    attention = attention_of(model, batch, encoded=encoded, weighed=weighed) if length else NO_EVENTS
    return _Read(
        scores=_array(encoded.scores(asked)[0]),
        biases=_array(model.item_bias()[asked[0]]),
        values=None if contributions is None else _array(contributions[0, :length]),
        heads=None if heads is None else _array(heads[0, :length]),
        weights=np.full(length, np.nan) if encoded.weights is None else _array(encoded.weights[0, :length]),
        attention=attention,
        encoded=encoded,
    )


def _contributions(model: Model, encoded: EncodedHistories, asked: Tensor) -> Tensor:
    try:
        return encoded.contributions(asked)
    except ReasonsError as error:
        others = [name for name, other in METHODS.items() if not other.control and other.works_for(model)]
        raise ReasonsError(f"{error}, or explain by another method: {', '.join(others)}") from None


def _attributed(model: Model, batch: Batch, asked: Tensor, *, method: str, known: Histories | None) -> Array:
    """Values of another method, (L, n)."""
    counts = None
    if method in METHODS and METHODS[method].takes_counts:
        if known is None:
            raise ValueError(
                f"{method} counts events of the log, got a model without it; call with_histories(log) first"
            )
        counts = torch.from_numpy(known.item_counts())
    found = attribute(model, batch, asked, method=method, counts=counts)
    return _array(found[0, : int(batch.lengths[0])])


def _events(histories: Histories, window: Batch) -> pd.DataFrame:
    """What the model read, oldest first: item_id, datetime, and the event's type where the log has them."""
    length = int(window.lengths[0])
    columns = {
        ITEM: histories.item_ids.decode(window.items[0, :length].numpy()),
        DATETIME: histories.to_datetime(window.times[0, :length].numpy()),
    }
    if window.events is not None and histories.event_names:
        columns[EVENT] = np.array(histories.event_names, dtype=object)[window.events[0, :length].numpy() - 1]
    return pd.DataFrame(columns)


def _with_values(events: pd.DataFrame, method: str, values: Array) -> pd.DataFrame:
    """The events with a column of the method's values, before the weights."""
    if method in events:
        return events.assign(**{method: values})
    frame = events.copy()
    frame.insert(frame.shape[1] - 1, method, values)
    return frame


def _readable(model: Model, histories: Histories, known: Histories | None) -> Histories:
    """The histories as the model can read them, with the log's numbers of types of events."""
    if model.needs_order and not histories.ordered:
        raise ValueError(f"{model.kind} needs an ordered history, got a frame without datetime; add it or give a list")
    if not getattr(model.config, "event_types", False):
        return histories
    if histories.events is None:
        if histories.n_events:
            raise ValueError(
                f"{model.description} reads the types of events, got a history without; give a frame with {EVENT}"
            )
        return replace(histories, events=np.zeros(0, dtype=np.uint8))
    if known is None or known.event_names == histories.event_names:
        return histories.with_event_names(model.event_names)
    unknown = set(histories.event_names) - set(known.event_names)
    if unknown:
        raise ValueError(
            f"{EVENT} must be one of the log's, {', '.join(known.event_names)}, got {sorted(unknown)}; rename it"
        )
    numbers = np.array([known.event_names.index(name) for name in histories.event_names], dtype=np.uint8)
    return replace(histories, events=numbers[histories.events], event_names=known.event_names)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
