"""What a walk sees of the events it may start from, on the graph of the user who is asked.

Shapes: S histories, E events, R rows of all graphs laid end to end, N = n_items + 1 item rows, K neighbours, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attnrec.attention.graph import Segments
from attnrec.attention.graph.segment_softmax import segment_logsumexp


@dataclass(frozen=True, eq=False)
class Seen:
    """Events of S histories, and R rows of all graphs laid end to end, which they lead to.

    Attributes:
        world: graph of each history, (S,).
        vectors, facts: of the events, see `Walks`.
        row_of_event: among the R, (S, E).
        neighbours: of the rows, see `Places`, (R, K).
        graph: edges of the rows.
        shares: of the edges, (edges, H).
    """

    world: Tensor
    vectors: Tensor
    facts: Tensor
    row_of_event: Tensor
    neighbours: Tensor
    graph: Segments
    shares: Tensor


def shares_of(energies: Tensor) -> Tensor:
    """Softmax over events and heads, the last two dimensions; zeros where no event counts."""
    return torch.nan_to_num(energies.flatten(-2).softmax(-1)).view_as(energies)


def facts_of(degrees: Tensor, energies: Tensor, graph: Segments) -> Tensor:
    """See `Walks.facts`: of rows with degrees (R,) and edges with energies (E, H), (R, 2)."""
    return torch.stack([degrees, segment_logsumexp(energies, graph).mean(1)], dim=1)


def spread(of_edges: Tensor, counts: Tensor, k: int) -> Tensor:
    """(E, H), row after row of so many edges (R,) -> (R, k, H), zeros behind the last."""
    real = torch.arange(k, device=counts.device) < counts[:, None]
    found = of_edges.new_zeros(len(counts), k, of_edges.shape[1])
    found[real] = of_edges
    return found
