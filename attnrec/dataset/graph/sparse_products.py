"""Products of sparse tables too large to be kept whole: made a block of rows at a time, of which the strongest stay.

Shapes: N item rows (row 0 is padding).
"""

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from attnrec.dataset.graph.compressed import Graph, graph_from_edges
from attnrec.dataset.graph.neighbours import strongest_neighbours

WORK = 2**26  # places of a product that are made together at a time: at most 12 bytes each


def sparse(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix; values of one place are summed."""
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False).coalesce()


def row_blocks(work: Tensor, *, at_once: int) -> tuple[Tensor, ...]:
    """All rows, in blocks of about `at_once`, what a row costs being in `work` (N,)."""
    cuts = (work.double().cumsum(0) // at_once).long()
    return torch.arange(len(work)).split([n for n in cuts.bincount().tolist() if n])


def product(one: Tensor, other: Tensor) -> Tensor:
    """Of two sparse matrices, coalesced."""
    with warnings.catch_warnings():  # torch goes through rows of sparse matrices, which it calls a beta
        warnings.filterwarnings("ignore", message="Sparse CSR")
        return torch.sparse.mm(one, other).coalesce()


def strongest_of(blocks: Iterable[tuple[Tensor, Graph]], k: int, *, n_rows: int) -> Graph:
    """One graph of items.

    Args:
        blocks: item rows, (n,), each once in all, and edges of items -> their places, 0 to n - 1.
        k: edges into an item that are kept, at most.
        n_rows: N.
    """
    found = []
    for rows, graph in blocks:
        table = strongest_neighbours(graph, k)
        chosen = {"sources": table.neighbours, "weights": table.weights, **table.columns}
        targets = np.repeat(rows.numpy(), table.real.sum(1))
        found.append({"targets": targets} | {name: values[table.real] for name, values in chosen.items()})
    joined = {name: np.concatenate([block[name] for block in found]) for name in (found[0] if found else ())}
    sources, targets, weights = (joined.pop(name) for name in ("sources", "targets", "weights"))
    return graph_from_edges(sources, targets, n_sources=n_rows, n_targets=n_rows, weights=weights, columns=joined)
