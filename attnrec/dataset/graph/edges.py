"""The bipartite user-item graph of all interactions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.graph.compressed import Columns, Graph
from attnrec.dataset.graph.grouping import group_keys, lengths_to_offsets, user_blocks
from attnrec.dataset.histories import Histories

DAY_SECONDS = 86_400


@dataclass(frozen=True, eq=False)
class Edges:
    """User-item edges, one per interacting pair, sorted by (user, item).

    Attributes:
        users: user rows, (n_edges,) int64.
        items: item rows, (n_edges,) int64.
        counts: number of events of the pair, (n_edges,) float32.
        n_users, n_items: number of users and items, including those without edges; item rows are 1 to n_items.
        last_times: Unix seconds of the last event of the pair, (n_edges,) int64; None if the log has no timestamps.
        event_shares: share of each event type in the events of the pair, (n_edges, n_event_types) float32; rows sum
            to 1. None if the log has no event types.
        event_names: names of the event types.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    counts: NDArray[np.float32]
    n_users: int
    n_items: int
    last_times: NDArray[np.int64] | None = None
    event_shares: NDArray[np.float32] | None = None
    event_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.users)

    @property
    def latest(self) -> int | None:
        """Unix seconds of the newest event; None if there are no timestamps or no edges."""
        return None if self.last_times is None or not len(self) else int(self.last_times.max())

    def by_user(self) -> Graph:
        """Return the graph item -> user, weighted by count.

        Edge columns: age_days, the days from the last event of the pair to the newest event of the graph (logs with
        timestamps), and share_TYPE for each event type (logs with event types).
        """
        return Graph(
            sources=self.items.astype(np.int32),
            offsets=lengths_to_offsets(np.bincount(self.users, minlength=self.n_users)),
            weights=self.counts,
            n_sources=self.n_items + 1,
            node_types=("item", "user"),
            columns=self._columns(),
            latest=self.latest,
        )

    def by_item(self) -> Graph:
        """Return the graph user -> item; item row 0 (padding) has no edges."""
        return self.by_user().transposed()

    def _columns(self) -> Columns:
        columns: Columns = {}
        if self.last_times is not None:
            ages = (self.latest or 0) - self.last_times
            columns["age_days"] = (ages / DAY_SECONDS).astype(np.float32)
        if self.event_shares is not None:
            columns |= {f"share_{name}": self.event_shares[:, code] for code, name in enumerate(self.event_names)}
        return columns


def user_item_edges(histories: Histories) -> Edges:
    """Build the user-item graph of all visible events; pass training histories only."""
    blocks = [_block_edges(histories, users) for users in user_blocks(histories.lengths)]
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return Edges(**columns, n_users=histories.n_users, n_items=histories.n_items, event_names=histories.event_names)


def _block_edges(histories: Histories, users: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the arrays of `Edges` for a block of consecutive users."""
    positions, n_item_rows = histories.positions(users), histories.n_items + 1
    keys = np.repeat(np.arange(len(users)) * n_item_rows, histories.lengths[users])
    keys += histories.items[positions]
    groups = group_keys(keys, n_keys=len(users) * n_item_rows)
    user_indices = groups.keys // n_item_rows
    columns = {
        "users": users[user_indices],
        "items": groups.keys - user_indices * n_item_rows,
        "counts": groups.counts.astype(np.float32),
    }
    if histories.time_kind == "datetime":
        columns["last_times"] = histories.times[positions[groups.last_positions()]]
    if histories.events is not None and histories.event_names:
        events = histories.events[positions]
        counts = [groups.sum((events == code).astype(np.float32)) for code in range(len(histories.event_names))]
        columns["event_shares"] = np.stack(counts, axis=1) / columns["counts"][:, None]
    return columns
