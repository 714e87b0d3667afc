"""V-SKNN: items of the past sessions that are most similar to the current one (Ludewig & Jannach, arXiv:1803.09587).

A session is the training history of one user. As in the authors' code (session-rec, VMContextKNN with "div" for both
decays): each distinct item of a history with n events has weight p / n, where p is its last position, from 1. The
similarity of a past session is the sum of the weights of the shared items. Candidates are the `sample_size` most recent
sessions with a shared item; the `n_neighbours` most similar of them are the neighbours (ties: the most recent). The
score of an item is the sum of similarity / s over the neighbours that contain it, where s = 1 if the neighbour shares
the last event, 2 if only the one before it, and so on. The contribution of an event is its item's weight in these
similarities, so for fixed neighbours and s, scores are exact sums over the history. Left out, because they do not
change the ranking: division by the number of distinct items and by the largest score.
Shapes: B users, L positions, K neighbours, n requested items, N = n_items + 1 item rows, P (session, item) pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from attnrec.dataset import Batch, Histories, user_item_edges
from attnrec.models.base import Model, ModelConfig
from attnrec.models.distinct_items import last_occurrences

STORED = ("pairs", "sessions")
END = torch.iinfo(torch.long).max  # sentinel after the last pair, so that every search result is a valid index


class VSKNNConfig(ModelConfig):
    """Settings of V-SKNN.

    Attributes:
        n_neighbours: neighbours of a session, k in the paper.
        sample_size: past sessions that are compared.
        max_length: the model uses the last `max_length` events of a history.
    """

    kind: str = "v_sknn"
    n_neighbours: int = Field(default=100, gt=0)
    sample_size: int = Field(default=1000, gt=0)
    max_length: int = Field(default=200, gt=0)


class VSKNN(Model):
    """Score = sum over the neighbours that have the item of similarity / s (see the module).

    A user's own training history is a session like any other, because sessions have no user ids. The saved model
    contains all training histories as sets of items, without user ids, times or order.

    Attributes:
        pairs: session * N + item of each distinct pair, sorted, and END, (P + 1,). Sessions are numbered by the time of
            their last event, 0 the oldest.
        starts, sessions: the most recent `sample_size` sessions with item i are sessions[starts[i] : starts[i + 1]].
    """

    kind = "v_sknn"
    paper = "Ludewig & Jannach 2018, arXiv:1803.09587"
    needs_order = True
    trainable = False
    pairs: Tensor
    starts: Tensor
    sessions: Tensor

    def __init__(self, config: VSKNNConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("pairs", torch.tensor([END]))
        self.register_buffer("starts", torch.zeros(n_items + 2, dtype=torch.long))
        self.register_buffer("sessions", torch.zeros(0, dtype=torch.long))
        self.register_load_state_dict_pre_hook(_resize_buffers)

    def observe(self, histories: Histories) -> None:
        """Store the training histories as sets, indexed by session and by item."""
        super().observe(histories)
        edges, width = user_item_edges(histories), self.n_items + 1
        sessions = _by_recency(histories)[edges.users]
        order = np.lexsort((sessions, edges.items))
        counts = np.bincount(edges.items, minlength=width)
        recency = np.repeat(np.cumsum(counts), counts) - np.arange(len(order))  # 1 at an item's most recent session
        latest = order[recency <= self.config.sample_size]
        starts = np.concatenate([[0], np.cumsum(np.minimum(counts, self.config.sample_size))])
        device = self.rankable.device
        self.pairs = torch.from_numpy(np.append(np.sort(sessions * width + edges.items), END)).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.sessions = torch.from_numpy(sessions[latest]).to(device)

    def encode(self, batch: Batch) -> "SessionEncoding":
        """See `Model.encode`; finds the neighbours of each history."""
        counted = last_occurrences(batch.items)
        positions = torch.arange(1, batch.items.shape[1] + 1, device=batch.items.device)
        neighbours = [
            self._neighbours(items[last], positions[last]) for items, last in zip(batch.items, counted, strict=True)
        ]
        sessions, similarity, latest = (
            nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in zip(*neighbours, strict=True)
        )
        n_events = batch.lengths[:, None]
        decay = (similarity > 0) / (n_events - latest + 1)
        event_weights = counted * positions / n_events.clamp(min=1)
        return SessionEncoding(batch.items, event_weights, sessions, similarity / n_events.clamp(min=1), decay, self)

    def item_bias(self) -> Tensor:
        return torch.zeros(self.n_items + 1, device=self.rankable.device)

    def _neighbours(self, items: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the sessions most similar to distinct `items` (M,) at `positions` (M,), from 1; most similar first.

        Returns:
            Session numbers, similarities times the number of events, and the position of the last shared event, (K,)
            each; integers, so that ties are exact.
        """
        # a session among the most recent of all candidates is among the most recent of each of its items
        indices, item_of_index = expand_slices(self.starts[items], self.starts[items + 1])
        candidates, candidate_of_index = self.sessions[indices].unique(return_inverse=True)
        shared = positions[item_of_index]
        similarity = shared.new_zeros(len(candidates)).index_add_(0, candidate_of_index, shared)
        latest = shared.new_zeros(len(candidates)).scatter_reduce_(0, candidate_of_index, shared, "amax")
        newest_first = torch.arange(len(candidates), device=candidates.device).flip(0)[: self.config.sample_size]
        order = similarity[newest_first].sort(descending=True, stable=True).indices
        best = newest_first[order[: self.config.n_neighbours]]
        return candidates[best], similarity[best], latest[best]


@dataclass(frozen=True, eq=False)
class SessionEncoding:
    """Histories and their neighbours; users with fewer than K neighbours are padded with decay 0.

    Attributes:
        history: (B, L).
        event_weights: p / n at the last occurrence of each distinct item, else 0, (B, L).
        sessions: session numbers of the neighbours, (B, K).
        similarity: similarity of the neighbours, (B, K).
        decay: 1 / s, where s is the position of the last shared event from the end, (B, K).
        model: stores the items of the sessions.
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
            return (strength[:, None] @ self._contains(items)).squeeze(1)
        pairs, width = self.model.pairs, self.model.n_items + 1
        first = self.sessions * width
        indices, owners = expand_slices(*(torch.searchsorted(pairs, key).flatten() for key in (first, first + width)))
        user_offset = torch.arange(len(first), device=first.device)[:, None] * width
        cells = pairs[indices] + (user_offset - first).flatten()[owners]  # session * N + item -> user * N + item
        totals = strength.new_zeros(len(first) * width)
        return totals.index_add_(0, cells, strength.flatten()[owners]).view(-1, width)

    def contributions(self, items: Tensor) -> Tensor:
        """Return each event's weight in the decayed similarities of neighbours with both its item and the candidate."""
        shared = self._contains(self.history).mT * self.event_weights[..., None]
        return (shared * self.decay[:, None]) @ self._contains(items)

    def _contains(self, items: Tensor) -> Tensor:
        """Return 1 where a neighbour contains an item: (B, n) -> (B, K, n)."""
        pairs = self.model.pairs
        keys = self.sessions[..., None] * (self.model.n_items + 1) + items[:, None]
        return (pairs[torch.searchsorted(pairs, keys)] == keys).to(self.decay)


def expand_slices(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of all slices starts[i] to ends[i], concatenated, and the slice of each index."""
    lengths = ends - starts
    owners = torch.arange(len(starts), device=starts.device).repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return torch.arange(len(owners), device=starts.device) + (starts - before)[owners], owners


def _by_recency(histories: Histories) -> NDArray[np.int64]:
    """Return each user's rank by the time of the last event, (n_users,); ties keep the order of users."""
    ended = np.full(histories.n_users, np.iinfo(np.int64).min)
    not_empty = histories.lengths > 0
    ended[not_empty] = histories.times[(histories.offsets[:-1] + histories.lengths - 1)[not_empty]]
    numbers = np.empty(histories.n_users, dtype=np.int64)
    numbers[np.argsort(ended, kind="stable")] = np.arange(histories.n_users)
    return numbers


def _resize_buffers(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Resize the buffers to the saved sizes, which depend on the number of training sessions."""
    for name in STORED:
        if prefix + name in state:
            setattr(model, name, torch.empty_like(state[prefix + name], device=model.get_buffer(name).device))
