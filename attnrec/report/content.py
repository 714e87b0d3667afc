"""The content of a report for one user: history, recommendations, contributions and counterfactual ranks.

Shapes: L shown events, k recommended items, N = n_items + 1 item rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Batch, Histories, last_events
from attnrec.models import Model
from attnrec.recommender import Recommender
from attnrec.report.ranks import ranks_without
from attnrec.report.selection import SelectedRecommendations
from attnrec.schema import ITEM, USER

TOLERANCE = 1e-3
"""Largest difference between a published score and the model's, relative to the score or absolute if it is below 1."""


@dataclass(frozen=True)
class Limits:
    """How much is computed for each user.

    Attributes:
        events: number of latest events of the history.
        counterfactual: number of events to remove one at a time: for each recommended item those with the largest
            contribution (without exact reasons: attention weight), and as many of the latest events.
        filter_viewed: whether the recommendations exclude items of the history.
    """

    events: int = 100
    counterfactual: int = 10
    filter_viewed: bool = True


@dataclass(frozen=True, eq=False)
class UserReasons:
    """Recommendations of one user with their reasons.

    Attributes:
        user_id: as a string.
        n_events: number of events in the history.
        n_read: number of latest events that the model reads.
        events: item rows of the latest events the model reads, oldest first, (L,).
        times: Unix seconds, (L,); None if the log has no timestamps.
        event_types: "view", "purchase", ..., (L,); None if the log has none.
        attention: attention weights, (L,); None if the model has none.
        items: item rows of the recommendations, best first, (k,).
        published_ranks: their published ranks, (k,).
        scores: scores of the model, which match the published ones, (k,).
        item_bias: item bias ("popularity"), (k,).
        contributions: contribution of each event, (L, k); None for a model without exact reasons.
        earlier_contributions: sum over the events that are read but not shown, (k,); None likewise.
        ranks: ranks among all candidates, (k,).
        ranks_without: ranks after each event is removed, (L, k); 0 if not computed.
    """

    user_id: str
    n_events: int
    n_read: int
    events: NDArray[np.int64]
    times: NDArray[np.int64] | None
    event_types: list[str] | None
    attention: NDArray[np.float64] | None
    items: NDArray[np.int64]
    published_ranks: NDArray[np.int64]
    scores: NDArray[np.float64]
    item_bias: NDArray[np.float64]
    contributions: NDArray[np.float64] | None
    earlier_contributions: NDArray[np.float64] | None
    ranks: NDArray[np.int64]
    ranks_without: NDArray[np.int64]


def user_reasons(
    recommender: Recommender, selected: SelectedRecommendations, *, limits: Limits
) -> Iterator[UserReasons]:
    """Compute the content of each user of `selected`, one after another.

    A user without a history in the recommender is scored by the item bias only.

    Args:
        recommender: the model and the histories that the recommendations were computed from.
        selected: the recommendations.
        limits: how much is computed for each user.

    Raises:
        ValueError: for a recommender without histories, an item that is not a candidate, or a score that differs from
            the model's.
    """
    histories, model = recommender.histories, recommender.model
    if histories is None:
        raise ValueError("a report needs the users' histories, got a recommender without; call with_histories(frame)")
    model.eval()
    rows_by_user = dict(list(selected.rows.groupby(USER, sort=False)))
    for user_id, user in zip(selected.user_ids, histories.user_ids.encode(selected.user_ids), strict=True):
        # an unknown user gets the empty prefix of the first history
        user_histories = histories if user >= 0 else histories.up_to(np.zeros_like(histories.lengths))
        yield _user_reasons(model, user_histories, max(0, int(user)), rows_by_user[user_id], limits)


@torch.no_grad()
def _user_reasons(model: Model, histories: Histories, user: int, rows: pd.DataFrame, limits: Limits) -> UserReasons:
    """Compute the content of one user row; `rows` are its published recommendations."""
    device = model.rankable.device
    batch = last_events(histories, np.array([user]), max_length=model.max_length, memory_events=model.memory_events).to(
        device
    )
    n_read = int(batch.lengths[0])
    candidates = _candidates(model, histories, user, filter_viewed=limits.filter_viewed)
    items = _item_rows(histories, rows, candidates)
    encoded, bias = model.encode(batch), model.item_bias().detach()[items].double()
    contributions = encoded.contributions(items[None])[0, :n_read].double() if model.exact_reasons else None
    scores = encoded.scores(items[None])[0].double() if contributions is None else bias + contributions.sum(0)
    _check_scores(rows, _array(scores))
    attention = None if encoded.weights is None else encoded.weights[0, :n_read].double()
    first = max(0, n_read - limits.events)
    importance = contributions if contributions is not None else attention
    removed = _removals(importance, batch, first=first, n=limits.counterfactual)
    all_ranks = ranks_without(model, batch, items, removed=removed, candidates=candidates)
    counterfactual_ranks = torch.zeros(n_read, len(items), dtype=torch.long, device=device)
    counterfactual_ranks[removed[1:].long().argmax(1)] = all_ranks[1:]
    has_clock = histories.time_kind == "datetime"
    return UserReasons(
        user_id=str(rows[USER].iloc[0]),
        n_events=int(histories.lengths[user]),
        n_read=n_read,
        events=_array(batch.items[0, first:n_read]),
        times=_array(batch.times[0, first:n_read]) if has_clock else None,
        event_types=_event_types(histories, batch, first),
        attention=None if attention is None else _array(attention[first:]),
        items=_array(items),
        published_ranks=rows["rank"].to_numpy(dtype=np.int64),
        scores=_array(scores),
        item_bias=_array(bias),
        contributions=None if contributions is None else _array(contributions[first:]),
        earlier_contributions=None if contributions is None else _array(contributions[:first].sum(0)),
        ranks=_array(all_ranks[0]),
        ranks_without=_array(counterfactual_ranks[first:]),
    )


def _candidates(model: Model, histories: Histories, user: int, *, filter_viewed: bool) -> Tensor:
    """Return the item rows that are ranked for the user, (N,) bool."""
    candidates = model.rankable.clone()
    if filter_viewed:
        candidates[torch.from_numpy(histories.items_of(user).astype(np.int64)).to(candidates.device)] = False
    return candidates


def _item_rows(histories: Histories, rows: pd.DataFrame, candidates: Tensor) -> Tensor:
    """Return the item rows of the published recommendations, (k,)."""
    items = torch.from_numpy(histories.item_ids.encode(rows[ITEM])).to(candidates.device)
    wrong = ((items == 0) | ~candidates[items]).nonzero()[:, 0].tolist()
    if wrong:
        item_id, user_id = rows[ITEM].iloc[wrong[0]], rows[USER].iloc[0]
        why = "is unknown to the model" if items[wrong[0]] == 0 else "is in the history or has no training event"
        raise ValueError(
            f"recommended items must be candidates of the model, got {item_id!r} for {user_id!r}, which {why}; "
            "pass the model, histories and filter_viewed that the recommendations were computed with"
        )
    return items


def _check_scores(rows: pd.DataFrame, scores: NDArray[np.float64]) -> None:
    """Compare the published scores with the model's."""
    published = rows["score"].to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(published - scores) <= TOLERANCE * np.maximum(1, np.abs(scores))))
    if len(wrong):
        row = rows.iloc[wrong[0]]
        raise ValueError(
            f"published scores must match the model, got {published[wrong[0]]:.4f} for {row[ITEM]!r} and {row[USER]!r} "
            f"where the model gives {scores[wrong[0]]:.4f}: the recommendations come from another model or other "
            "histories; pass the ones they were computed with"
        )


def _removals(importance: Tensor | None, batch: Batch, *, first: int, n: int) -> Tensor:
    """Return which events to remove: a row of False (the full history), then one event per row, (R, width) bool.

    Args:
        importance: importance of each event for each item, (n_read, k), or for all items, (n_read,).
        batch: one user.
        first: the first shown event.
        n: number of most important events per item, and number of latest events.
    """
    n_read, device = int(batch.lengths[0]), batch.items.device
    selected = torch.zeros(n_read, dtype=torch.bool, device=device)
    selected[max(first, n_read - n) :] = True
    if importance is not None:
        sizes = importance[first:].abs()
        selected[first + sizes.topk(min(n, len(sizes)), dim=0).indices.flatten()] = True
    one_event = selected.nonzero() == torch.arange(batch.items.shape[1], device=device)
    return torch.cat([torch.zeros_like(batch.real), one_event])


def _event_types(histories: Histories, batch: Batch, first: int) -> list[str] | None:
    if batch.events is None or not histories.event_names:
        return None
    return [histories.event_names[event - 1] for event in batch.events[0, first : int(batch.lengths[0])].tolist()]


def _array(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
