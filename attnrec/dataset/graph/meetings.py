"""Items that the same users had, each with its most similar ones.

Common users are counted, and summed by how many items they have: who has few says more (the walk item -> user -> item
of RP3-beta, Paudel et al. 2017, doi:10.1145/2955101).
Shapes: N = n_items + 1 item rows (row 0 is padding), E edges.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset.graph.compressed import Graph, graph_from_edges
from attnrec.dataset.graph.edges import Edges
from attnrec.dataset.graph.neighbours import strongest_neighbours
from attnrec.dataset.graph.runs import offsets_of

WORK = 2**26  # pairs of events whose items are counted together at a time: at most 12 bytes each


def common_users(
    edges: Edges, k: int, *, activity: float = 0.0, popularity: float = 0.5, columns: tuple[float, ...] = ()
) -> Graph:
    """Items that the same users had: into each item the k strongest edges.

    The weight of j -> i is sum over common users of degree(user) ** -activity / (degree(j) ** popularity *
    degree(i) ** (1 - popularity)); by default the cosine of the two items' sets of users. The column `count` says how
    many users they share.

    Args:
        edges: who had what.
        k: edges into an item, at most.
        activity: how much less a user counts who has more items.
        popularity: how much less an item counts that has more users.
        columns: exponents like `activity`, each one a column `users_EXPONENT` with its sums.
    """
    found = [_nearest(rows, met, k) for rows, met in _meetings(edges, activity, popularity, columns)]
    names = list(found[0]) if found else []
    sources, targets, weights, *rest = (np.concatenate([block[name] for block in found]) for name in names)
    return graph_from_edges(
        sources,
        targets,
        n_sources=edges.n_items + 1,
        n_targets=edges.n_items + 1,
        weights=weights,
        columns=dict(zip(names[3:], rest, strict=True)),
    )


def _meetings(
    edges: Edges, activity: float, popularity: float, exponents: tuple[float, ...]
) -> Iterator[tuple[Tensor, Graph]]:
    """Block by block: item rows, (n,), and the other items that share a user with them -> their places, 0 to n - 1."""
    n_rows, items, users = edges.n_items + 1, torch.from_numpy(edges.items), torch.from_numpy(edges.users)
    n_users, active = items.bincount(minlength=n_rows), users.bincount(minlength=edges.n_users)
    had = _sparse(items, users, torch.ones(len(items)), (n_rows, edges.n_users))
    had_by = {
        exponent: _sparse(users, items, active[users].float() ** -exponent, (edges.n_users, n_rows))
        for exponent in dict.fromkeys((0.0, activity, *exponents))
    }
    for rows in _blocks(torch.zeros(n_rows).index_add_(0, items, active[users].float())):
        chosen = had.index_select(0, rows)
        together = {exponent: _product(chosen, matrix) for exponent, matrix in had_by.items()}
        places, others = together[0.0].indices()
        kept = rows[places] != others
        places, others = places[kept], others[kept]
        sums = {exponent: met.values()[kept] for exponent, met in together.items()}
        degrees = n_users[others].float() ** popularity * n_users[rows[places]].float() ** (1 - popularity)
        told = {"count": sums[0.0]} | {f"users_{exponent:g}": sums[exponent] for exponent in exponents}
        yield (
            rows,
            Graph(
                sources=others.int().numpy(),
                offsets=offsets_of(places.bincount(minlength=len(rows)).numpy()),
                weights=(sums[activity] / degrees).numpy(),
                n_sources=n_rows,
                kinds=("item", "place"),
                columns={name: values.numpy() for name, values in told.items()},
            ),
        )


def _nearest(rows: Tensor, met: Graph, k: int) -> dict[str, NDArray[Any]]:
    """The k strongest edges into each place of a block of `rows` (n,), a column of each thing that is known of them."""
    table = strongest_neighbours(met, k)
    chosen = {"sources": table.neighbours, "weights": table.weights, **table.columns}
    found = {name: values[table.real] for name, values in chosen.items()}
    return {"sources": found.pop("sources"), "targets": np.repeat(rows.numpy(), table.real.sum(1))} | found


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False).coalesce()


def _blocks(work: Tensor) -> tuple[Tensor, ...]:
    """All rows, in blocks of about WORK, what a row costs being in `work` (N,)."""
    cuts = (work.double().cumsum(0) // WORK).long()
    return torch.arange(len(work)).split([n for n in cuts.bincount().tolist() if n])


def _product(one: Tensor, other: Tensor) -> Tensor:
    with warnings.catch_warnings():  # torch goes through rows of sparse matrices, which it calls a beta
        warnings.filterwarnings("ignore", message="Sparse CSR")
        return torch.sparse.mm(one, other).coalesce()
