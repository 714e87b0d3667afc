"""Item transitions: edges item -> next item, aggregated over all histories.

Edges between consecutive items of a session are those of SR-GNN (Wu et al. 2019, arXiv:1811.00855). Here they are
counted over the whole log, can connect items that are further apart, and can decay with the time between events.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.graph.compressed import Graph, compress_keys
from attnrec.dataset.graph.grouping import group_keys, stable_sort, user_blocks
from attnrec.dataset.histories import Histories

DAY_SECONDS, HOUR_SECONDS = 86_400, 3_600
MIN_WEIGHT = np.finfo(np.float32).tiny  # after many half-lives a weight rounds to 0, but weights must be above 0

PairSums = tuple[NDArray[np.int64], dict[str, NDArray[Any]]]
"""Distinct keys target * n_rows + source, ascending, and the sums over the event pairs of each key by name."""


@dataclass(frozen=True, eq=False)
class Transitions(Graph):
    """An item graph with the edge columns count, gap_seconds and recent.

    gap_seconds (mean seconds between the two events) needs a log with timestamps, recent needs `age_half_life_days`.

    Attributes:
        reach, directed, self_loops, session_gap_hours: settings of `item_transitions`.
    """

    reach: int = 1
    directed: bool = True
    self_loops: bool = False
    session_gap_hours: float | None = None

    @property
    def counts(self) -> NDArray[np.float32]:
        """Number of event pairs of each edge, (E,)."""
        return self.columns["count"]

    @property
    def gap_seconds(self) -> NDArray[np.float32] | None:
        """Mean seconds between the two events of a pair, (E,); None if the log has no timestamps."""
        return self.columns.get("gap_seconds")


def item_transitions(
    histories: Histories,
    *,
    reach: int = 1,
    half_life_days: float | None = None,
    directed: bool = True,
    session_gap_hours: float | None = None,
    self_loops: bool = False,
    age_half_life_days: float | None = None,
) -> Transitions:
    """Build the graph of item transitions within users' visible events; pass training histories only.

    Two events of a user at distance d (1: consecutive) add 1 / d to the weight of the edge earlier item -> later item,
    multiplied by 0.5 ** (time between them / half-life) if `half_life_days` is set.

    Args:
        histories: the log.
        reach: distance between two events of a pair, at most.
        half_life_days: time between two events after which a pair has half its weight; None: no decay.
        directed: False: add the reverse of each edge, so that both directions have the same sums. A self-loop is
            counted once.
        session_gap_hours: a longer pause ends a session; pairs are within one session. None: no sessions.
        self_loops: include pairs of equal items.
        age_half_life_days: add the column `recent`, to which a pair adds 1 / d * 0.5 ** (age / age half-life); the age
            is the time from the later event to the newest event of the log. None: no such column.

    Raises:
        ValueError: if the log is unordered, a setting in days or hours is used for a log without timestamps, or a
            setting is not above 0.
    """
    time_settings = {"half_life_days": half_life_days, "age_half_life_days": age_half_life_days}
    _check(histories, reach=reach, session_gap_hours=session_gap_hours, **time_settings)
    n_rows = histories.n_items + 1
    settings: dict[str, Any] = time_settings | {"directed": directed, "self_loops": self_loops}
    settings["now"] = 0 if age_half_life_days is None else latest_time(histories)
    parts, pair_times = [], []
    for users in user_blocks(histories.lengths):
        sessions = _Sessions(histories, users, session_gap_hours)
        parts += [sessions.pair_sums(distance, **settings) for distance in range(1, reach + 1)]
        pair_times += sessions.latest_times
    keys, sums = _merge(parts, n_rows=n_rows)
    if not directed:
        keys, sums = _add_reverse(keys, sums, n_rows=n_rows)
    columns = {"count": sums["count"].astype(np.float32)}
    if "gap" in sums:
        columns["gap_seconds"] = (sums["gap"] / sums["count"]).astype(np.float32)
    if "recent" in sums:
        columns["recent"] = sums["recent"].astype(np.float32)
    return Transitions(
        **compress_keys(keys, n_sources=n_rows, n_targets=n_rows),
        weights=np.maximum(sums["weight"], MIN_WEIGHT, dtype=np.float32),
        columns=columns,
        latest=max(pair_times, default=None),
        reach=reach,
        directed=directed,
        self_loops=self_loops,
        session_gap_hours=session_gap_hours,
    )


class _Sessions:
    """Visible events of a block of consecutive users, with session numbers.

    Attributes:
        has_timestamps: whether `times` are Unix seconds.
        latest_times: Unix seconds of the newest event in a pair, one entry per distance computed so far.
    """

    def __init__(self, histories: Histories, users: NDArray[np.int64], session_gap_hours: float | None) -> None:
        positions, lengths = histories.positions(users), histories.lengths[users]
        self.items, self.times = histories.items[positions], histories.times[positions]
        self.n_rows = histories.n_items + 1
        self.has_timestamps = histories.time_kind == "datetime"
        self.latest_times: list[int] = []
        is_first = np.zeros(len(positions), dtype=bool)
        is_first[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        if session_gap_hours is not None:
            is_first[1:] |= np.diff(self.times) > session_gap_hours * HOUR_SECONDS
        self.sessions = np.cumsum(is_first, dtype=np.int32)

    def pair_sums(
        self,
        distance: int,
        *,
        half_life_days: float | None,
        age_half_life_days: float | None,
        directed: bool,
        self_loops: bool,
        now: int,
    ) -> PairSums:
        """Aggregate the event pairs at `distance` within sessions; undirected: from the smaller row to the larger."""
        in_session = self.sessions[distance:] == self.sessions[:-distance]
        if not self_loops:
            in_session &= self.items[distance:] != self.items[:-distance]
        earlier, later = self.items[:-distance][in_session], self.items[distance:][in_session]
        if not directed:
            earlier, later = np.minimum(earlier, later), np.maximum(earlier, later)
        groups = group_keys(later * np.int64(self.n_rows) + earlier, n_keys=self.n_rows**2)
        sums: dict[str, NDArray[Any]] = {"count": groups.counts, "weight": groups.counts / distance}
        if self.has_timestamps:
            later_times = self.times[distance:][in_session]
            # a predefined test log can start before its training log ends, which gives negative gaps
            gaps = np.maximum(later_times - self.times[:-distance][in_session], 0)
            self.latest_times += [int(later_times.max())] if len(later_times) else []
            sums["gap"] = groups.sum(gaps)
            if half_life_days is not None:
                sums["weight"] = groups.sum(half_life_decay(gaps, half_life_days)) / distance
            if age_half_life_days is not None:
                sums["recent"] = groups.sum(half_life_decay(now - later_times, age_half_life_days)) / distance
        return groups.keys, sums


def latest_time(histories: Histories) -> int:
    """Return the Unix seconds of the newest visible event, 0 if there is none."""
    return int(histories.times[histories.positions(np.arange(histories.n_users))].max(initial=0))


def half_life_decay(seconds: NDArray[np.int64], half_life_days: float) -> NDArray[np.float64]:
    """Return 0.5 ** (seconds / half-life)."""
    return np.exp2(seconds / (-half_life_days * DAY_SECONDS))


def _merge(parts: list[PairSums], *, n_rows: int) -> PairSums:
    """Add up the sums of equal keys."""
    if len(parts) == 1:
        return parts[0]
    groups = group_keys(np.concatenate([keys for keys, _ in parts]), n_keys=n_rows**2)
    return groups.keys, {name: groups.sum(np.concatenate([sums[name] for _, sums in parts])) for name in parts[0][1]}


def _add_reverse(keys: NDArray[np.int64], sums: dict[str, NDArray[Any]], *, n_rows: int) -> PairSums:
    """Add the reverse of each key with the same sums; self-loops are not duplicated."""
    targets = keys // n_rows
    sources = keys - targets * n_rows
    different = np.flatnonzero(sources != targets)
    both = np.concatenate([keys, sources[different] * n_rows + targets[different]])
    ordered, order = stable_sort(both, n_keys=n_rows**2)
    return ordered, {name: np.concatenate([values, values[different]])[order] for name, values in sums.items()}


def _check(histories: Histories, *, reach: int, **time_settings: float | None) -> None:
    if not histories.ordered:
        raise ValueError("item_transitions needs ordered events, got unordered sets; use user_item_edges")
    if reach < 1:
        raise ValueError(f"reach must be at least 1, got {reach}; reach=1 pairs consecutive events")
    for name, value in time_settings.items():
        if value is None:
            continue
        if histories.time_kind != "datetime":
            raise ValueError(f"{name} needs timestamps, got a log with the order of events only; omit {name}")
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}; use None to turn it off")
