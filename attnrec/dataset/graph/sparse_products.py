"""Blockwise products of sparse matrices that are too large to store; only the strongest entries per row are kept.

Shapes: N item rows (row 0 is padding).
"""

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from attnrec.dataset.graph.compressed import Graph, graph_from_edges
from attnrec.dataset.graph.neighbours import strongest_neighbours

MAX_BLOCK_ENTRIES = 2**26  # entries of a product that are computed at a time; each needs at most 12 bytes


def sparse_matrix(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a coalesced sparse COO matrix; duplicate entries are summed."""
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False).coalesce()


def row_blocks(costs: Tensor, *, block_cost: int) -> tuple[Tensor, ...]:
    """Split all rows, in order, into blocks of a total cost of about `block_cost`; `costs` are per row, (N,)."""
    blocks = (costs.double().cumsum(0) // block_cost).long()
    return torch.arange(len(costs)).split([n for n in blocks.bincount().tolist() if n])


def sparse_product(left: Tensor, right: Tensor) -> Tensor:
    """Return the coalesced product of two sparse matrices."""
    with warnings.catch_warnings():  # torch converts to sparse CSR, whose support it calls beta
        warnings.filterwarnings("ignore", message="Sparse CSR")
        return torch.sparse.mm(left, right).coalesce()


def strongest_edges(blocks: Iterable[tuple[Tensor, Graph]], k: int, *, n_rows: int) -> Graph:
    """Combine blocks into one item graph with the k strongest edges into each item.

    Args:
        blocks: item rows, (n,), every row in one block at most, and a graph items -> block rows, 0 to n - 1.
        k: edges into an item, at most.
        n_rows: item rows, N.
    """
    parts = []
    for rows, graph in blocks:
        table = strongest_neighbours(graph, k)
        values = {"sources": table.neighbours, "weights": table.weights, **table.columns}
        targets = np.repeat(rows.numpy(), table.real.sum(1))
        parts.append({"targets": targets} | {name: array[table.real] for name, array in values.items()})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    sources, targets, weights = (joined.pop(name) for name in ("sources", "targets", "weights"))
    return graph_from_edges(sources, targets, n_sources=n_rows, n_targets=n_rows, weights=weights, columns=joined)
