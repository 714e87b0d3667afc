"""Who is reached over one edge or two: neighbours of neighbours, weighed by the chance to come to them.

Shapes: N = n_items + 1 item rows (row 0 is padding), E edges.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset.graph.compressed import Graph
from attnrec.dataset.graph.grouping import offsets_of
from attnrec.dataset.graph.sparse_products import WORK, product, row_blocks, sparse, strongest_of


def two_hop_graph(graph: Graph, k: int, *, second: float, first_k: int | None = None, loops: bool = False) -> Graph:
    """A graph of items with edges from whatever one step or two come to: into each item the k strongest.

    A step goes from an item to one of the sources of its k strongest edges, in proportion to their weights. The weight
    of a new edge is (1 - second) * chance of one step + second * chance of two; its columns are those of the edge
    between the two items, and 0 where there is none.

    Args:
        graph: item -> item.
        k: edges into an item, before and after.
        second: share of the walks that go two steps, 0 to 1.
        first_k: edges that the first of two steps can take; None: k. Work grows with first_k * k.
        loops: whether a walk may end where it began.
    """
    found = strongest_of(_reached(graph, k, second, first_k or k, loops), k, n_rows=graph.n_targets)
    known = graph.targets * graph.n_sources + graph.sources
    keys = found.targets * found.n_sources + found.sources
    places = np.searchsorted(known, keys)
    real = known[np.minimum(places, len(known) - 1)] == keys if len(known) else np.zeros(len(keys), dtype=bool)
    columns = {name: _at(values, places, real) for name, values in graph.columns.items()}
    return Graph(found.sources, found.offsets, found.weights, n_sources=found.n_sources, columns=columns)


def _reached(graph: Graph, k: int, second: float, first_k: int, loops: bool) -> Iterator[tuple[Tensor, Graph]]:
    """Block by block: item rows, (n,), and what one step or two from them come to -> their places, 0 to n - 1."""
    steps = _steps(graph, k)
    n_rows = len(steps)
    stay = torch.arange(n_rows)
    # one factor chooses whether to take the first of two steps, the other takes the last: one product makes both
    stays = sparse(stay, stay, torch.full((n_rows,), 1 - second), (n_rows, n_rows))
    first = (stays + second * (steps if first_k == k else _steps(graph, first_k))).coalesce()
    leads = steps.indices()[0].bincount(minlength=n_rows).float()
    at, to = first.indices()
    for rows in row_blocks(torch.zeros(n_rows).index_add_(0, at, leads[to]), at_once=WORK):
        ends = product(first.index_select(0, rows), steps)
        places, others = ends.indices()
        kept = (ends.values() > 0) & (loops | (rows[places] != others))
        yield (
            rows,
            Graph(
                sources=others[kept].int().numpy(),
                offsets=offsets_of(places[kept].bincount(minlength=len(rows)).numpy()),
                weights=ends.values()[kept].numpy(),
                n_sources=n_rows,
                kinds=("item", "place"),
            ),
        )


def _steps(graph: Graph, k: int) -> Tensor:
    """Chances of one step, a row for each item, (N, N) sparse."""
    strongest = strongest_of([(torch.arange(graph.n_targets), graph)], k, n_rows=graph.n_targets)
    targets, weights = torch.from_numpy(strongest.targets), torch.from_numpy(strongest.weights).double()
    sums = torch.zeros(graph.n_targets, dtype=torch.float64).index_add_(0, targets, weights)
    shares = (weights / sums[targets]).float()
    return sparse(targets, torch.from_numpy(strongest.sources).long(), shares, (graph.n_targets, graph.n_sources))


def _at(values: NDArray[np.float32], places: NDArray[np.int64], real: NDArray[np.bool_]) -> NDArray[np.float32]:
    found = np.zeros(len(places), dtype=np.float32)
    found[real] = values[places[real]]
    return found
