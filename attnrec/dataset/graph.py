"""Edges of the user-item graph, from flat arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.histories import Histories


@dataclass(frozen=True, eq=False)
class Edges:
    """Who interacted with what, each pair once, sorted by (user, item).

    Attributes:
        users: user rows, (n_edges,) int64.
        items: item rows, (n_edges,) int64.
        counts: how often, (n_edges,) float32.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    counts: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)


def user_item_edges(histories: Histories) -> Edges:
    """The bipartite graph of the visible events; give it training histories only."""
    owners = np.repeat(np.arange(histories.n_users), histories.lengths)
    width = histories.n_items + 1
    pairs, counts = np.unique(owners * width + histories.items[histories.positions()], return_counts=True)
    return Edges(users=pairs // width, items=pairs % width, counts=counts.astype(np.float32))
