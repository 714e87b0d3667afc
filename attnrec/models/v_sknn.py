"""V-SKNN: what was in the past sessions most alike to this one (Ludewig & Jannach 2018, arXiv:1803.09587).

A session is the training history of one user. As in the authors' code (session-rec, VMContextKNN with "div" for both
decays): of a history of n events the distinct items count, each with weight p / n, p its last place from 1. A past
session is as similar as the weights of the items it shares add up to; among the `sample_size` that ended last of
those which share an item, the `n_neighbours` most similar speak (equal ones: who ended last). An item's score is the
sum of similarity / s over the neighbours that have it, s = 1 if the latest event is shared, 2 if the one before it
is, and so on. What a shared item adds to the similarity is its event's part, so given the neighbours and their s,
scores are exact sums over the history. Left out: division by the number of distinct items and by the best score,
which change no ranking.
Shapes: B users, L positions, K neighbours, n items asked for, N = n_items + 1 item rows, P (session, item) pairs.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from attnrec.dataset import Batch, Histories, user_item_edges
from attnrec.models.base import Model, ModelConfig
from attnrec.models.distinct_items import last_occurrences

STORED = ("pairs", "sessions")
END = torch.iinfo(torch.long).max  # stands behind the last pair, so that a search always ends at one


class VSKNNConfig(ModelConfig):
    """Settings of V-SKNN: `sample_size` past sessions are compared, `n_neighbours` (the paper's k) of them speak."""

    kind: Literal["v_sknn"] = "v_sknn"
    n_neighbours: int = Field(default=100, gt=0)
    sample_size: int = Field(default=1000, gt=0)
    max_length: int = Field(default=200, gt=0)


class VSKNN(Model):
    """Score = sum over the neighbours that have the item of similarity / place of the latest shared event.

    A user's own training history is a session like any other: nothing tells whose it is. The model's folder holds
    all training histories as sets of items, without user ids, times or order.

    Attributes:
        pairs: session * N + item of each distinct pair, sorted, and END, (P + 1,). Sessions are numbered by
            their last event's time, 0 the oldest.
        starts, sessions: the latest `sample_size` sessions that have item i are sessions[starts[i] : starts[i + 1]].
    """

    kind = "v_sknn"
    paper = "Ludewig & Jannach 2018, arXiv:1803.09587"
    reasons = "exact, given the neighbours"
    needs_order = True
    learns = False
    pairs: Tensor
    starts: Tensor
    sessions: Tensor

    def __init__(self, config: VSKNNConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("pairs", torch.tensor([END]))
        self.register_buffer("starts", torch.zeros(n_items + 2, dtype=torch.long))
        self.register_buffer("sessions", torch.zeros(0, dtype=torch.long))
        self.register_load_state_dict_pre_hook(_make_room)

    def observe(self, histories: Histories) -> None:
        """Keep the training histories as sets, by session and by item."""
        super().observe(histories)
        edges, width = user_item_edges(histories), self.n_items + 1
        sessions = _by_recency(histories)[edges.users]
        order = np.lexsort((sessions, edges.items))
        counts = np.bincount(edges.items, minlength=width)
        from_the_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(order))  # 1 at an item's latest session
        latest = order[from_the_end <= self.config.sample_size]
        starts = np.concatenate([[0], np.cumsum(np.minimum(counts, self.config.sample_size))])
        device = self.rankable.device
        self.pairs = torch.from_numpy(np.append(np.sort(sessions * width + edges.items), END)).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.sessions = torch.from_numpy(sessions[latest]).to(device)

    def encode(self, batch: Batch) -> "SessionEncoding":
        """Find the neighbours of each history."""
        counted = last_occurrences(batch.items)
        places = torch.arange(1, batch.items.shape[1] + 1, device=batch.items.device)
        found = [self._neighbours(items[last], places[last]) for items, last in zip(batch.items, counted, strict=True)]
        sessions, similarity, latest = (
            nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in zip(*found, strict=True)
        )
        n_events = batch.lengths[:, None]
        decay = (similarity > 0) / (n_events - latest + 1)
        event_weights = counted * places / n_events.clamp(min=1)
        return SessionEncoding(batch.items, event_weights, sessions, similarity / n_events.clamp(min=1), decay, self)

    def item_bias(self) -> Tensor:
        return torch.zeros(self.n_items + 1, device=self.rankable.device)

    def _neighbours(self, items: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The most similar sessions to distinct `items` (M,) at `places` (M,) from 1, most similar first.

        Returns:
            Session numbers, similarities in units of 1 / n events, and the place of the latest shared event, (K,)
            each; whole numbers, so that equal similarities are equal.
        """
        # who is among the latest of all that share an item is among the latest of each item that it has
        at, owners = expand(self.starts[items], self.starts[items + 1])
        known, which = self.sessions[at].unique(return_inverse=True)
        shared = places[owners]
        similarity = shared.new_zeros(len(known)).index_add_(0, which, shared)
        latest = shared.new_zeros(len(known)).scatter_reduce_(0, which, shared, "amax")
        newest_first = torch.arange(len(known), device=known.device).flip(0)[: self.config.sample_size]
        order = similarity[newest_first].sort(descending=True, stable=True).indices
        best = newest_first[order[: self.config.n_neighbours]]
        return known[best], similarity[best], latest[best]


@dataclass(frozen=True, eq=False)
class SessionEncoding:
    """Histories and their neighbours; fewer than K neighbours are filled up with decay 0.

    Attributes:
        history: (B, L).
        event_weights: p / n at the last place of each distinct item, else 0, (B, L).
        sessions: the neighbours' numbers, (B, K).
        similarity: (B, K).
        decay: 1 / place of the latest shared event counted from the end, (B, K).
        model: which knows what was in the sessions.
    """

    history: Tensor
    event_weights: Tensor
    sessions: Tensor
    similarity: Tensor
    decay: Tensor
    model: VSKNN
    weights: Tensor | None = None

    def scores(self, items: Tensor | None = None) -> Tensor:
        """See `base.EncodedHistories`."""
        strength = self.similarity * self.decay
        if items is not None:
            return (strength[:, None] @ self._has(items)).squeeze(1)
        pairs, width = self.model.pairs, self.model.n_items + 1
        first = self.sessions * width
        at, owners = expand(*(torch.searchsorted(pairs, key).flatten() for key in (first, first + width)))
        own_row = torch.arange(len(first), device=first.device)[:, None] * width
        places = pairs[at] + (own_row - first).flatten()[owners]  # session * N + item -> row * N + item
        totals = strength.new_zeros(len(first) * width)
        return totals.index_add_(0, places, strength.flatten()[owners]).view(-1, width)

    def contributions(self, items: Tensor) -> Tensor:
        """Each event's weight in the decayed similarity of the neighbours that have both its item and the one asked."""
        shared = self._has(self.history).mT * self.event_weights[..., None]
        return (shared * self.decay[:, None]) @ self._has(items)

    def _has(self, items: Tensor) -> Tensor:
        """1 where a neighbour has an item: (B, n) -> (B, K, n)."""
        pairs = self.model.pairs
        wanted = self.sessions[..., None] * (self.model.n_items + 1) + items[:, None]
        return (pairs[torch.searchsorted(pairs, wanted)] == wanted).to(self.decay)


def expand(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """All positions of the slices starts[i] to ends[i], one after the other, and to which slice each belongs."""
    lengths = ends - starts
    owners = torch.arange(len(starts), device=starts.device).repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return torch.arange(len(owners), device=starts.device) + (starts - before)[owners], owners


def _by_recency(histories: Histories) -> NDArray[np.int64]:
    """Each user's place in the order of last visible events, (n_users,); equal times keep the users' order."""
    ended = np.full(histories.n_users, np.iinfo(np.int64).min)
    some = histories.lengths > 0
    ended[some] = histories.times[(histories.offsets[:-1] + histories.lengths - 1)[some]]
    numbers = np.empty(histories.n_users, dtype=np.int64)
    numbers[np.argsort(ended, kind="stable")] = np.arange(histories.n_users)
    return numbers


def _make_room(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The stored sessions are as many as the training log had: take the saved sizes."""
    for name in STORED:
        if prefix + name in state:
            setattr(model, name, torch.empty_like(state[prefix + name], device=model.get_buffer(name).device))
