"""What a report shows of one user: what they did, what they are recommended, and what the one has to do with the other.

Shapes: L events shown, k recommended items, N = n_items + 1 item rows.
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
from attnrec.report.selection import Published
from attnrec.schema import ITEM, USER

TOLERANCE = 1e-3
"""Of a published score against the model's own, as a part of the score (or of 1, where that is more)."""


@dataclass(frozen=True)
class Limits:
    """How much of each user is gathered.

    Attributes:
        events: of the history, the latest ones.
        counterfactual: events that are taken out for the sake of each recommended item, those with the largest
            contribution to it (without exact reasons: with the most attention), and as many of the latest.
        filter_viewed: whether the recommendations leave out what the user has seen, as they were made.
    """

    events: int = 100
    counterfactual: int = 10
    filter_viewed: bool = True


@dataclass(frozen=True, eq=False)
class UserReasons:
    """One user.

    Attributes:
        user_id: as text.
        n_events: in the whole history.
        n_read: that the model read, the latest ones.
        events: item rows of the latest events that were read, oldest first, (L,).
        times: Unix seconds, (L,); None where the log has no clock.
        kinds: "view", "purchase", ..., L of them; None where the log has none.
        shares: of attention, (L,); None where the model has none.
        items: item rows of what is recommended, best first, (k,).
        places: their published ranks, (k,).
        scores: the model's own, which the published ones were held against, (k,).
        item_bias: what everyone's liking adds, (k,).
        contributions: what each event added, (L, k); None for a model without exact reasons.
        earlier: what events added that were read and are not shown, (k,); None likewise.
        ranks: among all that can be recommended, (k,).
        ranks_without: the same without each event, (L, k); 0 where that was not computed.
    """

    user_id: str
    n_events: int
    n_read: int
    events: NDArray[np.int64]
    times: NDArray[np.int64] | None
    kinds: list[str] | None
    shares: NDArray[np.float64] | None
    items: NDArray[np.int64]
    places: NDArray[np.int64]
    scores: NDArray[np.float64]
    item_bias: NDArray[np.float64]
    contributions: NDArray[np.float64] | None
    earlier: NDArray[np.float64] | None
    ranks: NDArray[np.int64]
    ranks_without: NDArray[np.int64]


def user_reasons(recommender: Recommender, table: Published, *, limits: Limits) -> Iterator[UserReasons]:
    """Gather the users of `table` one after another, as the model reads them now.

    A user who is not in the recommender's histories has no history, and is scored by the items' own part alone.

    Args:
        recommender: a model with the histories that the recommendations were made from.
        table: what was published.
        limits: how much of each.

    Raises:
        ValueError: for a recommender without histories, an item that cannot be recommended, or a score that is not
            the model's own.
    """
    histories, model = recommender.histories, recommender.model
    if histories is None:
        raise ValueError("a report needs the users' histories, got a model loaded alone; call with_histories(frame)")
    model.eval()
    rows_of = dict(list(table.rows.groupby(USER, sort=False)))
    for user_id, user in zip(table.user_ids, histories.user_ids.encode(table.user_ids), strict=True):
        # who is unknown has the history of the first user, up to its beginning
        known = histories if user >= 0 else histories.up_to(np.zeros_like(histories.lengths))
        yield _gather(model, known, max(0, int(user)), rows_of[user_id], limits)


@torch.no_grad()
def _gather(model: Model, histories: Histories, user: int, rows: pd.DataFrame, limits: Limits) -> UserReasons:
    """One user row; `rows` are what was published of it."""
    device = model.rankable.device
    batch = last_events(histories, np.array([user]), max_length=model.max_length, memory_events=model.memory_events).to(device)
    n_read = int(batch.lengths[0])
    candidates = _candidates(model, histories, user, filter_viewed=limits.filter_viewed)
    items = _recommended(histories, rows, candidates)
    encoded, bias = model.encode(batch), model.item_bias().detach()[items].double()
    parts = encoded.contributions(items[None])[0, :n_read].double() if model.exact_reasons else None
    scores = encoded.scores(items[None])[0].double() if parts is None else bias + parts.sum(0)
    _check_scores(rows, _array(scores))
    shares = None if encoded.weights is None else encoded.weights[0, :n_read].double()
    first = max(0, n_read - limits.events)
    removed = _removals(parts if parts is not None else shares, batch, first=first, n=limits.counterfactual)
    found = ranks_without(model, batch, items, removed=removed, candidates=candidates)
    ranks_left = torch.zeros(n_read, len(items), dtype=torch.long, device=device)
    ranks_left[removed[1:].long().argmax(1)] = found[1:]
    clock = histories.time_kind == "datetime"
    return UserReasons(
        user_id=str(rows[USER].iloc[0]),
        n_events=int(histories.lengths[user]),
        n_read=n_read,
        events=_array(batch.items[0, first:n_read]),
        times=_array(batch.times[0, first:n_read]) if clock else None,
        kinds=_kinds(histories, batch, first),
        shares=None if shares is None else _array(shares[first:]),
        items=_array(items),
        places=rows["rank"].to_numpy(dtype=np.int64),
        scores=_array(scores),
        item_bias=_array(bias),
        contributions=None if parts is None else _array(parts[first:]),
        earlier=None if parts is None else _array(parts[:first].sum(0)),
        ranks=_array(found[0]),
        ranks_without=_array(ranks_left[first:]),
    )


def _candidates(model: Model, histories: Histories, user: int, *, filter_viewed: bool) -> Tensor:
    """Item rows that are ranked for the user, (N,) bool."""
    candidates = model.rankable.clone()
    if filter_viewed:
        candidates[torch.from_numpy(histories.items_of(user).astype(np.int64)).to(candidates.device)] = False
    return candidates


def _recommended(histories: Histories, rows: pd.DataFrame, candidates: Tensor) -> Tensor:
    """Item rows of what was published, (k,)."""
    items = torch.from_numpy(histories.item_ids.encode(rows[ITEM])).to(candidates.device)
    wrong = ((items == 0) | ~candidates[items]).nonzero()[:, 0].tolist()
    if wrong:
        item_id, user_id = rows[ITEM].iloc[wrong[0]], rows[USER].iloc[0]
        why = "the model does not know" if items[wrong[0]] == 0 else "is in the history or has no event in training"
        raise ValueError(
            f"recommended items must be ones the model can recommend, got {item_id!r} for {user_id!r}, which {why}; "
            "give the model and the histories they were made with, and filter_viewed as it was"
        )
    return items


def _check_scores(rows: pd.DataFrame, scores: NDArray[np.float64]) -> None:
    """Hold published scores against the model's own."""
    given = rows["score"].to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(given - scores) <= TOLERANCE * np.maximum(1, np.abs(scores))))
    if len(wrong):
        row = rows.iloc[wrong[0]]
        raise ValueError(
            f"a report's scores must be the model's own, got {given[wrong[0]]:.4f} for {row[ITEM]!r} and {row[USER]!r} "
            f"where it gives {scores[wrong[0]]:.4f}: these recommendations were made by another model or other "
            "histories; give those that made them"
        )


def _removals(worth: Tensor | None, batch: Batch, *, first: int, n: int) -> Tensor:
    """What is tried: a line of False, the full history, then one event at a time, (R, width of the batch) bool.

    Args:
        worth: what each event that was read has to do with each item, (n_read, k), or with any, (n_read,).
        batch: of one user.
        first: the first event that is shown.
        n: events for the sake of each item, and of the latest.
    """
    n_read, device = int(batch.lengths[0]), batch.items.device
    tried = torch.zeros(n_read, dtype=torch.bool, device=device)
    tried[max(first, n_read - n) :] = True
    if worth is not None:
        sizes = worth[first:].abs()
        tried[first + sizes.topk(min(n, len(sizes)), dim=0).indices.flatten()] = True
    places = tried.nonzero()
    lines = places == torch.arange(batch.items.shape[1], device=device)
    return torch.cat([torch.zeros_like(batch.real), lines])


def _kinds(histories: Histories, batch: Batch, first: int) -> list[str] | None:
    if batch.events is None or not histories.event_names:
        return None
    return [histories.event_names[event - 1] for event in batch.events[0, first : int(batch.lengths[0])].tolist()]


def _array(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
