"""Which events stand for the distinct items of a history: models of sets count each item once.

Shapes: B users, L positions, N = n_items + 1 item rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from attnrec.dataset import Histories, user_item_edges

BLOCK = 256  # items whose co-occurrences with all others are counted at a time: BLOCK x (users + N) floats


def last_occurrences(items: Tensor) -> Tensor:
    """True where an item of the history stands for the last time, False at padding: (B, L) -> (B, L) bool."""
    ordered, places = items.sort(dim=1, stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    return torch.zeros_like(last).scatter(1, places, last) & (items > 0)


def co_occurrences(histories: Histories) -> Iterator[tuple[Tensor, Tensor]]:
    """In how many histories two items meet, block by block: rows (n,), and their counts with every item (n, N)."""
    edges, n_rows = user_item_edges(histories), histories.n_items + 1
    places = torch.stack([torch.from_numpy(edges.items), torch.from_numpy(edges.users)])
    shape = (n_rows, histories.n_users)
    seen = torch.sparse_coo_tensor(places, torch.ones(len(edges)), shape, check_invariants=False).coalesce()
    for rows in torch.arange(n_rows).split(BLOCK):
        yield rows, torch.sparse.mm(seen, seen.index_select(0, rows).to_dense().mT).mT
