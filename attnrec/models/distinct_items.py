"""Distinct items of histories, for models of sets, which count each item once.

Shapes: B users, L positions, N = n_items + 1 item rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from attnrec.dataset import Histories, user_item_edges

BLOCK = 256  # rows of the co-occurrence matrix that are computed at a time: BLOCK x (users + N) floats


def last_occurrences(items: Tensor) -> Tensor:
    """Return whether a position is the last occurrence of its item, (B, L) -> (B, L) bool; False at padding."""
    ordered, positions = items.sort(dim=1, stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    return torch.zeros_like(last).scatter(1, positions, last) & (items > 0)


def co_occurrences(histories: Histories) -> Iterator[tuple[Tensor, Tensor]]:
    """Count in how many histories two items co-occur.

    Yields:
        Item rows, (n,), and their counts with every item, (n, N), block by block.
    """
    edges, n_rows = user_item_edges(histories), histories.n_items + 1
    indices = torch.stack([torch.from_numpy(edges.items), torch.from_numpy(edges.users)])
    shape = (n_rows, histories.n_users)
    item_users = torch.sparse_coo_tensor(indices, torch.ones(len(edges)), shape, check_invariants=False).coalesce()
    for rows in torch.arange(n_rows).split(BLOCK):
        yield rows, torch.sparse.mm(item_users, item_users.index_select(0, rows).to_dense().mT).mT
