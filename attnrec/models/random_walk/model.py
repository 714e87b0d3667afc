"""Random walk on the item graph with learned transition probabilities.

A walk starts at an event of the history and moves to a neighbour of its item. Both transitions are attention: the start
probabilities over the history, the step probabilities over the item's neighbours (GATv2: Brody, Alon & Yahav 2022,
arXiv:2105.14491). With an order there is one more head, whose walks stay at their first item. With events j and heads h

    P(i | user) ~ sum_j,h start_h(j | history) * step_h(i | j) + popularity_weight * popularity(i)

so a score is a sum over the history and contributions are exact. Random walks with fixed transition probabilities
(RP3-beta: Paudel et al. 2017, doi:10.1145/2955101) are strong item-based baselines. This model is initialised as such a
walk and trained by maximum likelihood, with each user on a graph without their own events (see `neighbour_tables`).
Scores are probabilities times the number of items, i.e. relative to a uniform distribution.
Shapes: B users, L positions, T target positions, S pieces of E events (see `windows`), R item rows of all graphs
concatenated, N = n_items + 1 item rows, K neighbours, H heads.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attnrec.attention.graph.segment_softmax import segment_softmax
from attnrec.dataset import Batch, Histories
from attnrec.layers import Dropout
from attnrec.models.base import EncodedHistories, Model
from attnrec.models.distinct_items import last_occurrences
from attnrec.models.graph.edge_weights import evaluating
from attnrec.models.graph.neighbour_weights import NeighbourWeights
from attnrec.models.random_walk.attention import StartAttention, StepAttention
from attnrec.models.random_walk.config import RandomWalkConfig
from attnrec.models.random_walk.encoding import WalkEncoding
from attnrec.models.random_walk.event_steps import (
    event_steps,
    item_statistics,
    pad_edges,
    start_probabilities,
    target_steps,
)
from attnrec.models.random_walk.loss import other_items_loss
from attnrec.models.random_walk.neighbour_tables import (
    NeighbourTables,
    build_neighbour_tables,
    edge_columns,
)
from attnrec.models.random_walk.windows import HistoryWindow, histories_until, split_histories, whole_histories

POPULARITY_WEIGHT = 0.03
"""Initial weight of the popularity term."""

MIN_PROBABILITY = 1e-12
"""Lower bound of probabilities before a logarithm."""

CHUNK_ROWS = 8192
"""Items whose step probabilities are computed at a time for scoring."""


class RandomWalk(Model):
    """Score = sum over the history of P(start at the event) * P(step to the item), plus weighted popularity."""

    kind = "random_walk"
    paper = "this project; Brody et al. 2022, arXiv:2105.14491; Paudel et al. 2017, doi:10.1145/2955101"
    neighbours: Tensor
    step_probabilities: Tensor
    statistics: Tensor
    popularity: Tensor

    def __init__(self, config: RandomWalkConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.config = config
        self.needs_order = config.next_item
        n_rows, k = n_items + 1, min(config.neighbours, n_items)
        self.embedding = nn.Embedding(n_rows, config.dim)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.item_rows = ("embedding.weight",)
        self.dropout = Dropout(config.dropout)
        self.start_attention = StartAttention(
            config.dim, heads=config.heads, ordered=config.next_item, window=config.window
        )
        self.step_attention = StepAttention(
            config.dim,
            heads=config.heads,
            channels=config.channels,
            n_features=len(edge_columns(config)) + 3,
        )
        self.log_popularity_weight = nn.Parameter(torch.tensor(POPULARITY_WEIGHT).log())
        self.register_buffer("neighbours", torch.full((n_rows, k), n_rows, dtype=torch.int32))
        self.register_buffer("step_probabilities", torch.zeros(n_rows, k, config.heads))
        self.register_buffer("statistics", torch.zeros(n_rows, 2))
        self.register_buffer("popularity", torch.zeros(n_rows))
        self.tables: NeighbourTables | None = None
        self.observed: Histories | None = None

    @property
    def has_graph(self) -> bool:
        return True

    @property
    def objective(self) -> str:
        return "next_item" if self.config.next_item else "other_items"

    @property
    def description(self) -> str:
        config = self.config
        hops = ["2hops"] if config.hops == 2 else []
        return "-".join(["random_walk", config.relation, *hops, f"k{config.neighbours}", f"d{config.dim}"])

    def observe(self, histories: Histories) -> None:
        """Build the graph of all users, which scoring uses, and for training one graph without each fold of users."""
        if self.tables is not None and self.observed is histories:  # already built for the leakage audit
            return
        super().observe(histories)
        self.observed = histories
        self.tables = build_neighbour_tables(histories, self.config)
        tables = self.tables_on_device()
        self.neighbours, self.popularity = tables.neighbours[0], tables.popularity[0]
        self.refresh()

    def graph_sources(self) -> dict[str, Any]:
        return {} if self.tables is None else self.tables.sources

    def neighbour_weights(self, items: Tensor) -> dict[str, NeighbourWeights]:
        """See `Model.neighbour_weights`; the weights are the step probabilities, mean over heads."""
        neighbours = self.neighbours[items]
        real = neighbours <= self.n_items  # padding comes last
        k = int(real.sum(1).max()) if len(items) else 0
        rows, weights = neighbours.long() * real, self.step_probabilities[items].mean(2) * real
        return {self.config.relation: NeighbourWeights(rows[:, :k], weights[:, :k])}

    def refresh(self) -> None:
        """Compute the step probabilities of all items, which scoring reads."""
        if self.tables is None:
            return
        tables = self.tables_on_device()
        with torch.no_grad():
            for rows in torch.arange(self.n_items + 1, device=self.statistics.device).split(CHUNK_ROWS):
                graph = tables.edges(rows)
                logits = self.step_attention(self.embedding.weight, rows, graph)
                probabilities = segment_softmax(logits, graph)
                self.step_probabilities[rows] = pad_edges(probabilities, graph.offsets.diff(), self.neighbours.shape[1])
                self.statistics[rows] = item_statistics(tables.degrees[0, rows], logits, graph)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean negative log probability of each event, given the previous events or all other events."""
        if self.config.next_item:
            assert batch.targets is not None, "a training batch has targets"
            has_target = batch.targets > 0
            log_probabilities = self.probabilities(batch, batch.targets).log()
            return -(log_probabilities * has_target).sum() / has_target.sum().clamp(min=1)
        with self._in_float32():
            window = whole_histories(batch, last_occurrences(batch.items), batch.items)
            targets = target_steps(self, window)
            logits = self.start_attention(targets.vectors, targets.statistics, targets.real, window.positions)[:, 0]
            weight = self.log_popularity_weight.exp()
            return other_items_loss(logits, targets, weight * targets.popularity, popularity_weight=weight)

    def probabilities(self, batch: Batch, targets: Tensor) -> Tensor:
        """Compute the probability of one item at each position, given the events up to it.

        Args:
            batch: ordered histories; with `users`, each user is scored on a graph without their own events.
            targets: the items, (B, L).

        Returns:
            (B, L), positive. Over all items they sum to 1, if every item of the history has a neighbour.
        """
        width, window = targets.shape[1], self.config.window
        with self._in_float32():
            if window is None or width <= 2 * window:
                return self._target_probabilities(whole_histories(batch, batch.real, targets))
            pieces = self._target_probabilities(split_histories(batch, targets, window))
            return pieces.view(len(targets), -1)[:, :width]

    def probabilities_at(self, batch: Batch, positions: Tensor, targets: Tensor) -> Tensor:
        """Compute `probabilities` at one position of each history, (B,), for one item, (B,)."""
        with self._in_float32():
            return self._target_probabilities(histories_until(batch, positions, targets, self.config.window))[:, 0]

    def _target_probabilities(self, window: HistoryWindow) -> Tensor:
        targets = target_steps(self, window)
        logits = self.start_attention(targets.vectors, targets.statistics, targets.real, window.positions)
        starts = start_probabilities(logits)
        moving, staying = starts[..., : self.config.heads], starts[..., self.config.heads :].sum(3)
        walk = torch.einsum("btlh,blth->bt", moving, targets.steps)
        walk = walk + (staying * (window.items[:, None] == window.targets[..., None])).sum(2)
        popularity = self.log_popularity_weight.exp() * targets.popularity
        return ((walk + popularity) / self.total_weight()).clamp(min=MIN_PROBABILITY)

    def all_probabilities(self, batch: Batch, positions: Tensor) -> Tensor:
        """Compute the probabilities of all items at one position of each history, (B,), in evaluation mode: (B, N)."""
        with evaluating(self), self._in_float32():
            window = histories_until(batch, positions, torch.zeros_like(positions), self.config.window)
            events = event_steps(self, window)
            logits = self.start_attention(events.vectors, events.statistics, window.real, window.positions)[:, 0]
            steps = pad_edges(events.probabilities, events.graph.offsets.diff(), events.neighbours.shape[1])
            rows, no_bias = events.row_of_event, torch.zeros_like(self.popularity)
            encoded = WalkEncoding(
                window.items, start_probabilities(logits), events.neighbours[rows], steps[rows], no_bias
            )
            popularity = self.log_popularity_weight.exp() * self.tables_on_device().popularity[events.graph_index]
            return (encoded.scores() + popularity) / self.total_weight()

    def _in_float32(self) -> torch.autocast:
        """Probabilities span many orders of magnitude, which bfloat16 cannot represent precisely enough."""
        return torch.autocast(self.statistics.device.type, enabled=False)

    def tables_on_device(self) -> NeighbourTables:
        """Return the neighbour tables on the device of the weights; they are moved once."""
        assert self.tables is not None, "the model observes its graph before it is trained"
        device = self.embedding.weight.device
        if self.tables.neighbours.device != device:
            self.tables = self.tables.to(device)
        return self.tables

    def encode(self, batch: Batch) -> WalkEncoding:
        """See `Model.encode`; users without events are scored by popularity."""
        real = batch.real if self.config.next_item else last_occurrences(batch.items)  # a set counts each item once
        last = (batch.lengths - 1).clamp(min=0)[:, None]
        neighbours, steps, statistics = (
            table[batch.items] for table in (self.neighbours, self.step_probabilities, self.statistics)
        )
        logits = self.start_attention(self.embedding.weight[batch.items], statistics, real, last)[:, 0]
        return WalkEncoding(
            batch.items, start_probabilities(logits) * self.n_items, neighbours, steps, self.item_bias()
        )

    def walk_probabilities(self, encoded: EncodedHistories, items: Tensor) -> Tensor:
        return encoded.contributions(items) / self.n_items

    def total_weight(self) -> Tensor:
        """Return 1 + popularity_weight, which the unnormalised probabilities of all items sum to, a scalar."""
        return 1 + self.log_popularity_weight.exp()

    def item_bias(self) -> Tensor:
        return self.log_popularity_weight.exp() * self.popularity * self.n_items
