"""Who interacted with what: the graph of users and items."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.graph.compressed import Columns, Graph
from attnrec.dataset.graph.grouping import find_runs, offsets_of, user_blocks
from attnrec.dataset.histories import Histories

DAY_SECONDS = 86_400


@dataclass(frozen=True, eq=False)
class Edges:
    """Who interacted with what, each pair once, sorted by (user, item).

    Attributes:
        users: user rows, (n_edges,) int64.
        items: item rows, (n_edges,) int64.
        counts: how often, (n_edges,) float32.
        n_users, n_items: how many there are, those without an edge too; item rows are 1 to n_items.
        last_times: Unix seconds of the pair's last event, (n_edges,) int64, where the log has a clock.
        event_shares: how much of the pair's events is of each kind, (n_edges, n_kinds) float32, where the log has
            kinds; each row sums to 1.
        event_names: the kinds.
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
        """Unix seconds of the newest event; None where there is no clock, or no edge."""
        return None if self.last_times is None or not len(self) else int(self.last_times.max())

    def by_user(self) -> Graph:
        """Item -> user: the edges into each user, weighted by count.

        Columns: age_days, before the graph's newest event, and share_KIND for each kind of event, where the log has
        them.
        """
        return Graph(
            sources=self.items.astype(np.int32),
            offsets=offsets_of(np.bincount(self.users, minlength=self.n_users)),
            weights=self.counts,
            n_sources=self.n_items + 1,
            kinds=("item", "user"),
            columns=self._columns(),
            latest=self.latest,
        )

    def by_item(self) -> Graph:
        """User -> item: the same edges into each item; item row 0 has none."""
        return self.by_user().transposed()

    def _columns(self) -> Columns:
        columns: Columns = {}
        if self.last_times is not None:
            ages = (self.latest or 0) - self.last_times
            columns["age_days"] = (ages / DAY_SECONDS).astype(np.float32)
        if self.event_shares is not None:
            columns |= {f"share_{name}": self.event_shares[:, kind] for kind, name in enumerate(self.event_names)}
        return columns


def user_item_edges(histories: Histories) -> Edges:
    """The bipartite graph of the visible events; give it training histories only."""
    blocks = [_edges_of(histories, users) for users in user_blocks(histories.lengths)]
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return Edges(**columns, n_users=histories.n_users, n_items=histories.n_items, event_names=histories.event_names)


def _edges_of(histories: Histories, users: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The arrays of `Edges` for consecutive users."""
    places, width = histories.positions(users), histories.n_items + 1
    keys = np.repeat(np.arange(len(users)) * width, histories.lengths[users])
    keys += histories.items[places]
    runs = find_runs(keys, n_keys=len(users) * width)
    owners = runs.keys // width
    columns = {
        "users": users[owners],
        "items": runs.keys - owners * width,
        "counts": runs.counts.astype(np.float32),
    }
    if histories.time_kind == "datetime":
        columns["last_times"] = histories.times[places[runs.lasts()]]
    if histories.events is not None and histories.event_names:
        kinds = histories.events[places]
        shares = [runs.sums((kinds == kind).astype(np.float32)) for kind in range(len(histories.event_names))]
        columns["event_shares"] = np.stack(shares, axis=1) / columns["counts"][:, None]
    return columns
