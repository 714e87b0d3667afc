"""What was done after what: item -> next item, over all histories at once.

Edges between items that follow each other in a session are those of SR-GNN (Wu et al. 2019, arXiv:1811.00855); here
they are counted over the whole log, may reach further than the next event, and fade with the time between the two.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.graph.compressed import Graph, compressed
from attnrec.dataset.graph.grouping import find_runs, stable_order, user_blocks
from attnrec.dataset.histories import Histories

DAY_SECONDS, HOUR_SECONDS = 86_400, 3_600
SMALLEST = np.finfo(np.float32).tiny  # half lives of long ago round to 0, and an edge is an edge

Pairs = tuple[NDArray[np.int64], dict[str, NDArray[Any]]]
"""Distinct keys target * n_rows + source, ascending, and what is summed over each one's pairs of events."""


@dataclass(frozen=True, eq=False)
class Transitions(Graph):
    """A graph of items by item; columns: count; gap_seconds (mean) where the log has a clock; recent where asked for.

    Attributes:
        reach, directed, loops, session_gap_hours: what it was made with, see `item_transitions`.
    """

    reach: int = 1
    directed: bool = True
    loops: bool = False
    session_gap_hours: float | None = None

    @property
    def counts(self) -> NDArray[np.float32]:
        """Pairs of events behind each edge, (E,)."""
        return self.columns["count"]

    @property
    def gaps(self) -> NDArray[np.float32] | None:
        """Mean seconds between the two events, (E,); None where the log has no clock."""
        return self.columns.get("gap_seconds")


def item_transitions(
    histories: Histories,
    *,
    reach: int = 1,
    half_life_days: float | None = None,
    directed: bool = True,
    session_gap_hours: float | None = None,
    loops: bool = False,
    age_half_life_days: float | None = None,
) -> Transitions:
    """Which items follow which within a user's visible events; give it training histories only.

    A pair of events d places apart adds 1 / d to the weight of its edge earlier item -> later item, times
    0.5 ** (time between them / half life) where a half life is given.

    Args:
        histories: whose events.
        reach: pairs up to this many places apart.
        half_life_days: time after which a pair counts half; None: all count alike.
        directed: False adds to each edge its reverse, so that both have the same sums; a loop counts once.
        session_gap_hours: no pair reaches over a pause longer than this.
        loops: whether an item may follow itself.
        age_half_life_days: adds the column `recent`, in which a pair adds 1 / d, and half of it for each such time from
            it to the newest event. None: there is no such column.

    Raises:
        ValueError: for an unordered log, a log without times where hours or days are asked for, or settings not > 0.
    """
    in_time = {"half_life_days": half_life_days, "age_half_life_days": age_half_life_days}
    _check(histories, reach=reach, session_gap_hours=session_gap_hours, **in_time)
    n_rows = histories.n_items + 1
    settings: dict[str, Any] = in_time | {"directed": directed, "loops": loops}
    settings["now"] = 0 if age_half_life_days is None else latest_time(histories)
    parts, ends = [], []
    for users in user_blocks(histories.lengths):
        events = _Events(histories, users, session_gap_hours)
        parts += [events.pairs(distance, **settings) for distance in range(1, reach + 1)]
        ends += events.ends
    keys, sums = _joined(parts, n_rows=n_rows)
    if not directed:
        keys, sums = _mirrored(keys, sums, n_rows=n_rows)
    columns = {"count": sums["count"].astype(np.float32)}
    if "gap" in sums:
        columns["gap_seconds"] = (sums["gap"] / sums["count"]).astype(np.float32)
    if "recent" in sums:
        columns["recent"] = sums["recent"].astype(np.float32)
    return Transitions(
        **compressed(keys, n_sources=n_rows, n_targets=n_rows),
        weights=np.maximum(sums["weight"], SMALLEST, dtype=np.float32),
        columns=columns,
        latest=max(ends, default=None),
        reach=reach,
        directed=directed,
        self_loops=loops,
        session_gap_hours=session_gap_hours,
    )


class _Events:
    """Visible events of consecutive users, cut into sessions.

    Attributes:
        clock: whether times are times.
        ends: Unix seconds of the newest event of the pairs made so far, distance by distance.
    """

    def __init__(self, histories: Histories, users: NDArray[np.int64], session_gap_hours: float | None) -> None:
        places, lengths = histories.positions(users), histories.lengths[users]
        self.items, self.times = histories.items[places], histories.times[places]
        self.n_rows = histories.n_items + 1
        self.clock = histories.time_kind == "datetime"
        self.ends: list[int] = []
        begins = np.zeros(len(places), dtype=bool)
        begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        if session_gap_hours is not None:
            begins[1:] |= np.diff(self.times) > session_gap_hours * HOUR_SECONDS
        self.sessions = np.cumsum(begins, dtype=np.int32)

    def pairs(
        self,
        distance: int,
        *,
        half_life_days: float | None,
        age_half_life_days: float | None,
        directed: bool,
        loops: bool,
        now: int,
    ) -> Pairs:
        """Pairs of events `distance` apart within a session; undirected ones from the smaller row to the larger."""
        chosen = self.sessions[distance:] == self.sessions[:-distance]
        if not loops:
            chosen &= self.items[distance:] != self.items[:-distance]
        earlier, later = self.items[:-distance][chosen], self.items[distance:][chosen]
        if not directed:
            earlier, later = np.minimum(earlier, later), np.maximum(earlier, later)
        runs = find_runs(later * np.int64(self.n_rows) + earlier, n_keys=self.n_rows**2)
        sums: dict[str, NDArray[Any]] = {"count": runs.counts, "weight": runs.counts / distance}
        if self.clock:
            after = self.times[distance:][chosen]
            # a given test log behind its train log may begin before that ends
            gaps = np.maximum(after - self.times[:-distance][chosen], 0)
            self.ends += [int(after.max())] if len(after) else []
            sums["gap"] = runs.sums(gaps)
            if half_life_days is not None:
                sums["weight"] = runs.sums(half_life_decay(gaps, half_life_days)) / distance
            if age_half_life_days is not None:
                sums["recent"] = runs.sums(half_life_decay(now - after, age_half_life_days)) / distance
        return runs.keys, sums


def latest_time(histories: Histories) -> int:
    """Unix seconds of the newest visible event, 0 where there is none."""
    return int(histories.times[histories.positions(np.arange(histories.n_users))].max(initial=0))


def half_life_decay(seconds: NDArray[np.int64], half_life_days: float) -> NDArray[np.float64]:
    """1 for no time, half of it for each half life."""
    return np.exp2(seconds / (-half_life_days * DAY_SECONDS))


def _joined(parts: list[Pairs], *, n_rows: int) -> Pairs:
    """Several sets of pairs as one, the sums of equal pairs added."""
    if len(parts) == 1:
        return parts[0]
    runs = find_runs(np.concatenate([keys for keys, _ in parts]), n_keys=n_rows**2)
    return runs.keys, {name: runs.sums(np.concatenate([sums[name] for _, sums in parts])) for name in parts[0][1]}


def _mirrored(keys: NDArray[np.int64], sums: dict[str, NDArray[Any]], *, n_rows: int) -> Pairs:
    """Each pair in both directions with the same sums; a loop once."""
    targets = keys // n_rows
    sources = keys - targets * n_rows
    others = np.flatnonzero(sources != targets)
    both = np.concatenate([keys, sources[others] * n_rows + targets[others]])
    ordered, order = stable_order(both, n_keys=n_rows**2)
    return ordered, {name: np.concatenate([values, values[others]])[order] for name, values in sums.items()}


def _check(histories: Histories, *, reach: int, **in_time: float | None) -> None:
    if not histories.ordered:
        raise ValueError("item_transitions needs an order of events, got unordered sets; use user_item_edges")
    if reach < 1:
        raise ValueError(f"reach must be at least 1, got {reach}; the next event is at 1")
    for name, value in in_time.items():
        if value is None:
            continue
        if histories.time_kind != "datetime":
            raise ValueError(f"{name} needs times, got the order of arrival only; leave {name} out")
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}; leave it out for none")
