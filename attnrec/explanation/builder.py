"""Build explanations from a model and one history; the history is encoded once for all items.

Shapes: B = 1 user, L events that the model reads, n explained items, H heads of the readout.
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

from attnrec.attribution import METHODS, attribute
from attnrec.dataset import Batch, Histories, last_events
from attnrec.explanation.attention_maps import NO_EVENTS, AttentionMaps, attention_maps, contributions_by_head
from attnrec.explanation.explanation import Explanation
from attnrec.explanation.explanations import Explanations
from attnrec.explanation.neighbourhood import lazy_neighbourhoods
from attnrec.explanation.score_attribution import CONTRIBUTION
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
    log: Histories | None = None,
) -> Explanations:
    """Explain the scores of some items for one user's history.

    Args:
        model: any; "contribution" needs exact reasons, the needs of other methods are in `attnrec.attribution`.
        histories: histories in the model's item rows.
        user: user row.
        items: item rows, at least one.
        method: a name in `attnrec.attribution.METHODS`.
        log: the training log in the model's item rows. It provides item counts (for "popularity") and the numbers of
            the event types (for a model that reads them).

    Raises:
        ReasonsError: for contributions of a model whose scores are not sums over the history.
        ValueError: for no item, a history without the order or the event types that the model reads, an unknown method
            or one that does not work for the model.
    """
    if not len(items):
        raise ValueError("items must name at least one item, got none; pass an item_id or a list of them")
    histories = _with_model_inputs(model, histories, log)
    model.eval()
    window = last_events(histories, np.array([user]), max_length=model.max_length, memory_events=model.memory_events)
    batch, item_rows = window.to(model.rankable.device), torch.tensor([list(items)], device=model.rankable.device)
    outputs = _model_outputs(model, batch, item_rows, exact=method == CONTRIBUTION)
    values = outputs.contributions
    if values is None:
        values = _attribution(model, batch, item_rows, method=method, log=log)
    events = _event_frame(histories, window).assign(**{WEIGHT: outputs.weights})
    explain = partial(
        Explanation,
        method=method,
        model_description=model.description,
        ordered=histories.ordered,
        attention_maps=outputs.attention_maps,
    )
    around = lazy_neighbourhoods(model, batch, item_rows, encoded=outputs.encoded, item_ids=histories.item_ids)
    explanations = []
    for column, item_id in enumerate(histories.item_ids.decode(np.asarray(items))):
        frame, bias = _with_values(events, method, values[:, column]), float(outputs.item_bias[column])
        score = bias + float(frame[method].sum()) if method == CONTRIBUTION else float(outputs.scores[column])
        heads = None if outputs.head_contributions is None else outputs.head_contributions[:, column]
        explanations.append(
            explain(item_id, score, bias, frame, head_contributions=heads, neighbourhood=around[column])
        )
    return Explanations(explanations)


@dataclass(frozen=True, eq=False)
class _ModelOutputs:
    """Model outputs for one history and n items.

    Attributes:
        scores, item_bias: (n,).
        contributions: (L, n); None unless requested.
        head_contributions: (L, n, H); None unless requested or for a readout without heads.
        weights: attention weights of the readout, (L,); NaN if there are none.
        attention_maps: attention weights of all layers.
        encoded: the encoded history.
    """

    scores: Array
    item_bias: Array
    contributions: Array | None
    head_contributions: Array | None
    weights: Array
    attention_maps: AttentionMaps
    encoded: EncodedHistories


@torch.inference_mode()
def _model_outputs(model: Model, batch: Batch, item_rows: Tensor, *, exact: bool) -> _ModelOutputs:
    length, encoded = int(batch.lengths[0]), model.encode(batch)
    readout = model.readout_weights(batch) if length else None
    contributions = _contributions(model, encoded, item_rows) if exact else None
    by_head = contributions_by_head(readout, encoded, item_rows) if exact and readout is not None else None
    return _ModelOutputs(
        scores=_array(encoded.scores(item_rows)[0]),
        item_bias=_array(model.item_bias()[item_rows[0]]),
        contributions=None if contributions is None else _array(contributions[0, :length]),
        head_contributions=None if by_head is None else _array(by_head[0, :length]),
        weights=np.full(length, np.nan) if encoded.weights is None else _array(encoded.weights[0, :length]),
        attention_maps=attention_maps(model, batch, encoded=encoded, readout=readout) if length else NO_EVENTS,
        encoded=encoded,
    )


def _contributions(model: Model, encoded: EncodedHistories, item_rows: Tensor) -> Tensor:
    try:
        return encoded.contributions(item_rows)
    except ReasonsError as error:
        others = [name for name, other in METHODS.items() if not other.control and other.works_for(model)]
        raise ReasonsError(f"{error}, or choose another method: {', '.join(others)}") from None


def _attribution(model: Model, batch: Batch, item_rows: Tensor, *, method: str, log: Histories | None) -> Array:
    """Return the values of another method than contribution, (L, n)."""
    counts = None
    if method in METHODS and METHODS[method].takes_counts:
        if log is None:
            raise ValueError(f"{method} needs item counts of the log, got no log; call with_histories(log) first")
        counts = torch.from_numpy(log.item_counts())
    values = attribute(model, batch, item_rows, method=method, counts=counts)
    return _array(values[0, : int(batch.lengths[0])])


def _event_frame(histories: Histories, window: Batch) -> pd.DataFrame:
    """Return the events the model reads, oldest first: item_id, datetime, and event (type) if the log has types."""
    length = int(window.lengths[0])
    columns = {
        ITEM: histories.item_ids.decode(window.items[0, :length].numpy()),
        DATETIME: histories.to_datetime(window.times[0, :length].numpy()),
    }
    if window.events is not None and histories.event_names:
        columns[EVENT] = np.array(histories.event_names, dtype=object)[window.events[0, :length].numpy() - 1]
    return pd.DataFrame(columns)


def _with_values(events: pd.DataFrame, method: str, values: Array) -> pd.DataFrame:
    """Return the events with the values of the method as a column before the weights."""
    if method in events:
        return events.assign(**{method: values})
    frame = events.copy()
    frame.insert(frame.shape[1] - 1, method, values)
    return frame


def _with_model_inputs(model: Model, histories: Histories, log: Histories | None) -> Histories:
    """Check that the histories have what the model reads, and number event types as in the log."""
    if model.needs_order and not histories.ordered:
        raise ValueError(
            f"{model.kind} needs an ordered history, got a frame without datetime; add the column or pass a list"
        )
    if not getattr(model.config, "event_types", False):
        return histories
    if histories.events is None:
        if histories.n_events:
            raise ValueError(
                f"{model.description} reads event types, got a history without; pass a frame with the column {EVENT}"
            )
        return replace(histories, events=np.zeros(0, dtype=np.uint8))
    if log is None or log.event_names == histories.event_names:
        return histories.with_event_names(model.event_names)
    unknown = set(histories.event_names) - set(log.event_names)
    if unknown:
        raise ValueError(
            f"{EVENT} must be a type of the log ({', '.join(log.event_names)}), got {sorted(unknown)}; rename it"
        )
    numbers = np.array([log.event_names.index(name) for name in histories.event_names], dtype=np.uint8)
    return replace(histories, events=numbers[histories.events], event_names=log.event_names)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
