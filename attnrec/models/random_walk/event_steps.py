"""Step probabilities from the events of histories, each user on a graph without their own events.

Shapes: S histories, E events, R item rows of all graphs concatenated, N = n_items + 1 item rows, K neighbours, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attnrec.attention.graph import SortedEdges
from attnrec.attention.graph.segment_softmax import segment_logsumexp


@dataclass(frozen=True, eq=False)
class EventSteps:
    """Events of S histories, and the steps from the R distinct item rows that they refer to.

    Attributes:
        graph_index: graph of each history, see `NeighbourTables`, (S,).
        vectors, statistics: of the events, see `TargetSteps`.
        row_of_event: index into the R rows, (S, E).
        neighbours: of the rows, see `NeighbourTables`, (R, K).
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
