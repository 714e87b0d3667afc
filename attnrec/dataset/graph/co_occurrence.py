"""Item co-occurrence: item-item edges from common users, the strongest per item.

With `activity_exponent` > 0, users with many items count less, as in the random walk item -> user -> item of RP3-beta
(Paudel et al. 2017, doi:10.1145/2955101).
Shapes: N = n_items + 1 item rows (row 0 is padding), E edges.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from attnrec.dataset.graph.compressed import Graph
from attnrec.dataset.graph.edges import Edges
from attnrec.dataset.graph.grouping import lengths_to_offsets
from attnrec.dataset.graph.sparse_products import (
    MAX_BLOCK_ENTRIES,
    row_blocks,
    sparse_matrix,
    sparse_product,
    strongest_edges,
)


def item_co_occurrence(
    edges: Edges, k: int, *, activity_exponent: float = 0.0, popularity_exponent: float = 0.5
) -> Graph:
    """Build the item graph of common users with the k strongest edges into each item.

    With a = activity_exponent and p = popularity_exponent, the weight of j -> i is the sum over common users of
    degree(user) ** -a, divided by degree(j) ** p * degree(i) ** (1 - p). The default is the cosine similarity of the
    two items' sets of users. The edge column `count` is the number of common users.

    Args:
        edges: user-item edges.
        k: edges into an item, at most.
        activity_exponent: exponent that reduces the weight of users with many items.
        popularity_exponent: exponent that reduces the weight of source items with many users.
    """
    return strongest_edges(_co_occurrences(edges, activity_exponent, popularity_exponent), k, n_rows=edges.n_items + 1)


def _co_occurrences(
    edges: Edges, activity_exponent: float, popularity_exponent: float
) -> Iterator[tuple[Tensor, Graph]]:
    """Yield blocks of item rows, (n,), and the graph of their co-occurring items -> block rows, 0 to n - 1."""
    n_rows, items, users = edges.n_items + 1, torch.from_numpy(edges.items), torch.from_numpy(edges.users)
    item_degrees, user_degrees = items.bincount(minlength=n_rows), users.bincount(minlength=edges.n_users)
    item_user = sparse_matrix(items, users, torch.ones(len(items)), (n_rows, edges.n_users))
    user_item = {
        exponent: sparse_matrix(users, items, user_degrees[users].float() ** -exponent, (edges.n_users, n_rows))
        for exponent in {0.0, activity_exponent}
    }
    costs = torch.zeros(n_rows).index_add_(0, items, user_degrees[users].float())
    for rows in row_blocks(costs, block_cost=MAX_BLOCK_ENTRIES):
        block = item_user.index_select(0, rows)
        products = {exponent: sparse_product(block, matrix) for exponent, matrix in user_item.items()}
        block_rows, others = products[0.0].indices()
        different = rows[block_rows] != others
        block_rows, others = block_rows[different], others[different]
        sums = {exponent: matrix.values()[different] for exponent, matrix in products.items()}
        other_degrees, degrees = item_degrees[others].float(), item_degrees[rows[block_rows]].float()
        norms = other_degrees**popularity_exponent * degrees ** (1 - popularity_exponent)
        yield (
            rows,
            Graph(
                sources=others.int().numpy(),
                offsets=lengths_to_offsets(block_rows.bincount(minlength=len(rows)).numpy()),
                weights=(sums[activity_exponent] / norms).numpy(),
                n_sources=n_rows,
                node_types=("item", "block_row"),
                columns={"count": sums[0.0].numpy()},
            ),
        )
