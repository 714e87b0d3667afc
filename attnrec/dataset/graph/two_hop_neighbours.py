"""Two-hop neighbourhoods: items reached by one or two random steps, weighted by the probability to reach them.

Shapes: N = n_items + 1 item rows (row 0 is padding), E edges.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset.graph.compressed import Graph
from attnrec.dataset.graph.grouping import lengths_to_offsets
from attnrec.dataset.graph.sparse_products import (
    MAX_BLOCK_ENTRIES,
    row_blocks,
    sparse_matrix,
    sparse_product,
    strongest_edges,
)


def two_hop_graph(
    graph: Graph, k: int, *, two_step_probability: float, first_k: int | None = None, self_loops: bool = False
) -> Graph:
    """Build an item graph with edges from all items reached by one or two random steps, the k strongest per item.

    A step goes from an item to the source of one of its k strongest edges, with a probability proportional to the edge
    weight. The weight of a new edge is (1 - two_step_probability) * P(one step) + two_step_probability * P(two steps).
    Its columns are those of the original edge between the two items, 0 if there is none.

    Args:
        graph: an item graph.
        k: strongest edges into an item that are used, in the given and in the new graph.
        two_step_probability: probability of two steps instead of one, 0 to 1.
        first_k: strongest edges that the first of two steps can take; None: k. The cost grows with first_k * k.
        self_loops: keep edges from an item to itself.
    """
    blocks = _reached(graph, k, two_step_probability, first_k or k, self_loops)
    strongest = strongest_edges(blocks, k, n_rows=graph.n_targets)
    graph_keys = graph.targets * graph.n_sources + graph.sources
    keys = strongest.targets * strongest.n_sources + strongest.sources
    positions = np.searchsorted(graph_keys, keys)
    if len(graph_keys):
        exists = graph_keys[np.minimum(positions, len(graph_keys) - 1)] == keys
    else:
        exists = np.zeros(len(keys), dtype=bool)
    columns = {name: _take_or_zero(values, positions, exists) for name, values in graph.columns.items()}
    return Graph(
        strongest.sources, strongest.offsets, strongest.weights, n_sources=strongest.n_sources, columns=columns
    )


def _reached(
    graph: Graph, k: int, two_step_probability: float, first_k: int, self_loops: bool
) -> Iterator[tuple[Tensor, Graph]]:
    """Yield blocks of item rows, (n,), and the graph of the items they reach -> block rows, 0 to n - 1."""
    steps = _step_probabilities(graph, k)
    n_rows = len(steps)
    diagonal = torch.arange(n_rows)
    # (1 - p) I + p S, multiplied by S, gives one step and two steps in one product
    identity = sparse_matrix(diagonal, diagonal, torch.full((n_rows,), 1 - two_step_probability), (n_rows, n_rows))
    first_steps = steps if first_k == k else _step_probabilities(graph, first_k)
    first = (identity + two_step_probability * first_steps).coalesce()
    n_steps = steps.indices()[0].bincount(minlength=n_rows).float()
    starts, stops = first.indices()
    costs = torch.zeros(n_rows).index_add_(0, starts, n_steps[stops])
    for rows in row_blocks(costs, block_cost=MAX_BLOCK_ENTRIES):
        product = sparse_product(first.index_select(0, rows), steps)
        block_rows, items = product.indices()
        kept = (product.values() > 0) & (self_loops | (rows[block_rows] != items))
        yield (
            rows,
            Graph(
                sources=items[kept].int().numpy(),
                offsets=lengths_to_offsets(block_rows[kept].bincount(minlength=len(rows)).numpy()),
                weights=product.values()[kept].numpy(),
                n_sources=n_rows,
                node_types=("item", "block_row"),
            ),
        )


def _step_probabilities(graph: Graph, k: int) -> Tensor:
    """Return the transition matrix of one step over the k strongest edges, one row per item, (N, N) sparse."""
    strongest = strongest_edges([(torch.arange(graph.n_targets), graph)], k, n_rows=graph.n_targets)
    targets, weights = torch.from_numpy(strongest.targets), torch.from_numpy(strongest.weights).double()
    sums = torch.zeros(graph.n_targets, dtype=torch.float64).index_add_(0, targets, weights)
    probabilities = (weights / sums[targets]).float()
    sources = torch.from_numpy(strongest.sources).long()
    return sparse_matrix(targets, sources, probabilities, (graph.n_targets, graph.n_sources))


def _take_or_zero(
    values: NDArray[np.float32], positions: NDArray[np.int64], exists: NDArray[np.bool_]
) -> NDArray[np.float32]:
    taken = np.zeros(len(positions), dtype=np.float32)
    taken[exists] = values[positions[exists]]
    return taken
