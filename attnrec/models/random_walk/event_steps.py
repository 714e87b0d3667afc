"""Step probabilities from the events of histories, each user on a graph without their own events.

Shapes: S histories, E events, R item rows of all graphs concatenated, N = n_items + 1 item rows, K neighbours, H heads.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from attnrec.attention.graph import SortedEdges
from attnrec.attention.graph.segment_softmax import segment_logsumexp, segment_softmax
from attnrec.layers import Dropout
from attnrec.models.random_walk.attention import StepAttention
from attnrec.models.random_walk.config import RandomWalkConfig
from attnrec.models.random_walk.encoding import find_neighbours
from attnrec.models.random_walk.loss import TargetSteps
from attnrec.models.random_walk.neighbour_tables import NeighbourTables, fold_of
from attnrec.models.random_walk.windows import HistoryWindow


class HasWalkSteps(Protocol):
    """The parts of `RandomWalk` that its steps need."""

    config: RandomWalkConfig
    embedding: nn.Embedding
    dropout: Dropout
    step_attention: StepAttention

    def tables_on_device(self) -> NeighbourTables:
        """Neighbour tables on the model's device."""
        ...


@dataclass(frozen=True, eq=False)
class EventSteps:
    """Events of S histories, and the steps from the R distinct item rows that they refer to.

    Attributes:
        graph_index: graph of each history, see `NeighbourTables`, (S,).
        vectors, statistics: inputs of the events, see `TargetSteps`.
        row_of_event: index into the R rows, (S, E).
        neighbours: neighbours of the rows, see `NeighbourTables`, (R, K).
        graph: edges of the rows.
        probabilities: step probabilities of the edges, (edges, H).
    """

    graph_index: Tensor
    vectors: Tensor
    statistics: Tensor
    row_of_event: Tensor
    neighbours: Tensor
    graph: SortedEdges
    probabilities: Tensor


def target_steps(model: HasWalkSteps, window: HistoryWindow) -> TargetSteps:
    """Compute the step probabilities from the events to the targets."""
    events, real = event_steps(model, window), window.real
    rows, offsets = events.row_of_event, events.graph.offsets
    indices, is_neighbour = find_neighbours(events.neighbours[rows], window.targets)
    n_edges = len(events.probabilities)
    edges = (offsets[rows][..., None] + indices).clamp(max=max(0, n_edges - 1))
    no_edges = events.probabilities.new_zeros(*edges.shape, model.config.heads)
    steps = events.probabilities[edges] if n_edges else no_edges
    return TargetSteps(
        vectors=events.vectors,
        statistics=events.statistics,
        popularity=model.tables_on_device().popularity[events.graph_index[:, None], window.targets],
        real=real,
        has_neighbours=(offsets.diff() > 0)[rows] & real,
        steps=steps * (is_neighbour & real[..., None])[..., None],
    )


def event_steps(model: HasWalkSteps, window: HistoryWindow) -> EventSteps:
    """Compute the step probabilities from each event, on a graph without the user if `window.users` is given."""
    tables, items, real = model.tables_on_device(), window.items, window.real
    graph_index = torch.zeros_like(items[:, 0])
    if window.users is not None:
        graph_index = 1 + fold_of(window.users, model.config.folds)
    event_rows = (graph_index[:, None] * tables.n_rows + items)[real]
    rows, row_of_event = event_rows.unique(return_inverse=True)
    graph, vectors = tables.edges(rows), model.dropout(model.embedding.weight)
    logits = model.step_attention(vectors, rows % tables.n_rows, graph)
    statistics = item_statistics(tables.degrees.flatten()[rows], logits, graph)[row_of_event]
    return EventSteps(
        graph_index=graph_index,
        vectors=vectors[items],
        statistics=statistics.new_zeros(*real.shape, 2).masked_scatter(real[..., None], statistics),
        row_of_event=torch.zeros_like(items).masked_scatter(real, row_of_event),
        neighbours=tables.neighbours.flatten(0, 1)[rows],
        graph=graph,
        probabilities=segment_softmax(logits, graph),
    )


def start_probabilities(logits: Tensor) -> Tensor:
    """Softmax over events and heads, the last two dimensions; zeros where no event can be a start."""
    return torch.nan_to_num(logits.flatten(-2).softmax(-1)).view_as(logits)


def item_statistics(degrees: Tensor, logits: Tensor, graph: SortedEdges) -> Tensor:
    """Return `TargetSteps.statistics` of rows with degrees (R,) and edges with logits (E, H): (R, 2)."""
    return torch.stack([degrees, segment_logsumexp(logits, graph).mean(1)], dim=1)


def pad_edges(values: Tensor, counts: Tensor, k: int) -> Tensor:
    """Pad values of edges (E, H), grouped by row with counts (R,), to (R, k, H) with zeros."""
    real = torch.arange(k, device=counts.device) < counts[:, None]
    padded = values.new_zeros(len(counts), k, values.shape[1])
    padded[real] = values
    return padded
