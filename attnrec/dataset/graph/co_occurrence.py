"""Items that the same users had, each with its most similar ones.

Common users are counted, and summed by how many items they have: who has few says more (the walk item -> user -> item
of RP3-beta, Paudel et al. 2017, doi:10.1145/2955101).
Shapes: N = n_items + 1 item rows (row 0 is padding), E edges.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from attnrec.dataset.graph.compressed import Graph
from attnrec.dataset.graph.edges import Edges
from attnrec.dataset.graph.grouping import offsets_of
from attnrec.dataset.graph.sparse_products import WORK, product, row_blocks, sparse, strongest_of


def item_co_occurrence(edges: Edges, k: int, *, activity: float = 0.0, popularity: float = 0.5) -> Graph:
    """Items that the same users had: into each item the k strongest edges.

    The weight of j -> i is sum over common users of degree(user) ** -activity / (degree(j) ** popularity *
    degree(i) ** (1 - popularity)); by default the cosine of the two items' sets of users. The column `count` says how
    many users they share.

    Args:
        edges: who had what.
        k: edges into an item, at most.
        activity: how much less a user counts who has more items.
        popularity: how much less an item counts that has more users.
    """
    return strongest_of(_meetings(edges, activity, popularity), k, n_rows=edges.n_items + 1)


def _meetings(edges: Edges, activity: float, popularity: float) -> Iterator[tuple[Tensor, Graph]]:
    """Block by block: item rows, (n,), and the other items that share a user with them -> their places, 0 to n - 1."""
    n_rows, items, users = edges.n_items + 1, torch.from_numpy(edges.items), torch.from_numpy(edges.users)
    n_users, active = items.bincount(minlength=n_rows), users.bincount(minlength=edges.n_users)
    had = sparse(items, users, torch.ones(len(items)), (n_rows, edges.n_users))
    had_by = {
        exponent: sparse(users, items, active[users].float() ** -exponent, (edges.n_users, n_rows))
        for exponent in {0.0, activity}
    }
    for rows in row_blocks(torch.zeros(n_rows).index_add_(0, items, active[users].float()), at_once=WORK):
        chosen = had.index_select(0, rows)
        together = {exponent: product(chosen, matrix) for exponent, matrix in had_by.items()}
        places, others = together[0.0].indices()
        kept = rows[places] != others
        places, others = places[kept], others[kept]
        sums = {exponent: met.values()[kept] for exponent, met in together.items()}
        degrees = n_users[others].float() ** popularity * n_users[rows[places]].float() ** (1 - popularity)
        yield (
            rows,
            Graph(
                sources=others.int().numpy(),
                offsets=offsets_of(places.bincount(minlength=len(rows)).numpy()),
                weights=(sums[activity] / degrees).numpy(),
                n_sources=n_rows,
                kinds=("item", "place"),
                columns={"count": sums[0.0].numpy()},
            ),
        )
