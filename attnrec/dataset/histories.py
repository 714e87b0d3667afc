"""Every user's history as flat arrays: events of user u are rows offsets[u] to offsets[u] + lengths[u]."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset.vocabulary import Vocabulary
from attnrec.schema import DATETIME, EVENT, ITEM, USER, WEIGHT, check_interactions
from attnrec.storage import MANIFEST, new_folder, read_json, write_json

TimeKind = Literal["datetime", "order", "none"]
UNKNOWN_EVENT = 255
"""The number of a type of event that a model has not seen."""

COLUMNS = ("items", "times", "weights", "events")


@dataclass(frozen=True, eq=False)
class Histories:
    """What users did, in order. A prefix of every history is a view (`up_to`): nothing is copied.

    Attributes:
        user_ids: user id <-> user row, from 0.
        item_ids: item id <-> item row, from 1; row 0 is padding.
        items: item row of each event, (n_events,) int32, sorted by user, time and order of arrival.
        times: Unix seconds of each event, (n_events,) int64; the order of arrival where there is no clock.
        offsets: first event of each user, and the end, (n_users + 1,) int64.
        lengths: how many of a user's events this view shows, (n_users,) int64.
        weights: (n_events,) float32, where the log has them.
        events: row in `event_names` of each event, (n_events,) uint8, where the log has them.
        time_kind: "datetime"; "order" when times are only the order of arrival; "none" for unordered sets.
        content_hash: fingerprint of the log this was made from.
    """

    user_ids: Vocabulary
    item_ids: Vocabulary
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    events: NDArray[np.uint8] | None = None
    event_names: tuple[str, ...] = ()
    time_kind: TimeKind = "datetime"
    content_hash: str = ""

    @property
    def ordered(self) -> bool:
        """False for unordered sets, which sequence models refuse."""
        return self.time_kind != "none"

    @property
    def n_users(self) -> int:
        return len(self.lengths)

    @property
    def n_items(self) -> int:
        """Items in the catalogue, padding not counted: item rows are 1 to n_items."""
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        """Events this view shows."""
        return int(self.lengths.sum())

    def up_to(self, lengths: NDArray[np.int64]) -> "Histories":
        """The same users with only their first `lengths` events, (n_users,)."""
        assert (lengths <= np.diff(self.offsets)).all(), "a view cannot be longer than the history"
        return replace(self, lengths=lengths)

    def items_of(self, user: int) -> NDArray[np.int32]:
        """Item rows of one user's history, oldest first."""
        start = self.offsets[user]
        return self.items[start : start + self.lengths[user]]

    def positions(self, users: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Positions in the flat arrays of all visible events of `users` (default all), user by user."""
        users = np.arange(self.n_users) if users is None else users
        lengths = self.lengths[users]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        return np.arange(total) + np.repeat(self.offsets[users] - (ends - lengths), lengths)

    def item_counts(self) -> NDArray[np.int64]:
        """Visible events of each item row, (n_items + 1,); padding has 0."""
        return np.bincount(self.items[self.positions()], minlength=self.n_items + 1)

    def recode(self, item_ids: Vocabulary) -> "Histories":
        """The same histories in another catalogue's item rows; events of items unknown there are left out."""
        row_of = item_ids.rows_for(self.item_ids).astype(np.int32)
        positions = self.positions()
        users = np.repeat(np.arange(self.n_users), self.lengths)
        items = row_of[self.items[positions]]
        kept = items > 0
        lengths = np.bincount(users[kept], minlength=self.n_users).astype(np.int64)
        columns = {name: getattr(self, name) for name in COLUMNS[1:]}
        columns = {name: None if column is None else column[positions][kept] for name, column in columns.items()}
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return replace(self, item_ids=item_ids, items=items[kept], offsets=offsets, lengths=lengths, **columns)

    def with_event_names(self, names: tuple[str, ...]) -> "Histories":
        """The same histories with types of events numbered as in `names`; others are `UNKNOWN_EVENT`.

        A log numbers its types in their alphabetical order, and another day's log may have more or fewer of them.
        """
        if self.events is None or not names or self.event_names == names:
            return self
        places = {name: place for place, name in enumerate(names)}
        codes = np.array([places.get(name, UNKNOWN_EVENT) for name in self.event_names], dtype=np.uint8)
        return replace(self, events=codes[self.events], event_names=names)

    def moments(self, times: NDArray[np.int64]) -> pd.DatetimeIndex:
        """Times as dates, UTC; NaT where the log has no clock."""
        if self.time_kind != "datetime":
            return pd.DatetimeIndex([pd.NaT] * len(times), tz="UTC")
        return pd.to_datetime(times, unit="s", utc=True)

    def save(self, folder: Path) -> None:
        """Write the arrays to a new `folder`, manifest last.

        Raises:
            StorageError: when the disk is full; nothing is left behind.
        """
        with new_folder(folder) as target:
            for name in (*COLUMNS, "offsets", "lengths"):
                if (column := getattr(self, name)) is not None:
                    np.save(target / f"{name}.npy", column, allow_pickle=False)
            self.user_ids.save(target / "users.parquet")
            self.item_ids.save(target / "items.parquet")
            facts = {
                "event_names": self.event_names,
                "time_kind": self.time_kind,
                "content_hash": self.content_hash,
            }
            counts = {"n_users": self.n_users, "n_items": self.n_items, "n_events": self.n_events}
            write_json(target / MANIFEST, facts | counts)

    @classmethod
    def load(cls, folder: Path) -> "Histories":
        """Open what `save` wrote; the arrays stay on disk until they are read (memory-mapped, never written)."""
        facts = read_json(folder / MANIFEST)
        arrays = {
            name: np.load(path, mmap_mode="c")
            for name in (*COLUMNS, "offsets", "lengths")
            if (path := folder / f"{name}.npy").exists()
        }
        return cls(
            user_ids=Vocabulary.load(folder / "users.parquet"),
            item_ids=Vocabulary.load(folder / "items.parquet"),
            event_names=tuple(facts["event_names"]),
            time_kind=facts["time_kind"],
            content_hash=facts["content_hash"],
            **arrays,
        )


def histories_from_frame(frame: pd.DataFrame) -> Histories:
    """Build histories from a frame of interactions (see `schema.check_interactions`).

    Args:
        frame: user_id, item_id and optionally datetime, weight, event; without datetime the set is unordered.

    Raises:
        ValueError: for a frame that does not follow the schema.
    """
    frame = check_interactions(frame)
    ordered = DATETIME in frame
    if ordered:
        frame = frame.sort_values([USER, DATETIME], kind="stable", ignore_index=True)
    else:
        frame = frame.sort_values(USER, kind="stable", ignore_index=True)
    catalogue = Vocabulary(np.sort(frame[ITEM].unique()), first=1)
    time_kind = "datetime" if ordered else "none"
    return _assemble([frame], catalogue, time_kind=time_kind, content_hash=_frame_hash(frame))


def histories_from_parts(
    parts: Sequence[Path],
    *,
    time_kind: TimeKind,
    content_hash: str,
    min_item_events: int = 1,
    min_user_events: int = 1,
) -> Histories:
    """Build histories from ingested partitions, one partition in memory at a time.

    Args:
        parts: Parquet files, each sorted by user and time, no user in two of them.
        time_kind: what the time column means, see `Histories`.
        content_hash: fingerprint of the log, kept with the arrays.
        min_item_events: leave out items with fewer events than this in the whole log.
        min_user_events: leave out users with fewer events than this (after the items).

    Raises:
        ValueError: when nothing is left.
    """
    counts = pd.concat([pd.read_parquet(part, columns=[ITEM])[ITEM].value_counts() for part in parts])
    counts = counts.groupby(level=0).sum()
    catalogue = Vocabulary(counts.index[counts >= min_item_events].sort_values(), first=1)

    def frames() -> Iterator[pd.DataFrame]:
        for part in parts:
            frame = pd.read_parquet(part)
            if min_item_events > 1:
                frame = frame[frame[ITEM].isin(catalogue.index)]
            if min_user_events > 1:
                frame = frame[frame.groupby(USER)[ITEM].transform("size") >= min_user_events]
            yield frame

    return _assemble(frames(), catalogue, time_kind=time_kind, content_hash=content_hash)


def _assemble(
    frames: Sequence[pd.DataFrame] | Iterator[pd.DataFrame],
    item_ids: Vocabulary,
    *,
    time_kind: TimeKind,
    content_hash: str,
) -> Histories:
    """Join sorted frames with disjoint users into flat arrays."""
    users: list[pd.Index] = []
    lengths: list[NDArray[np.int64]] = []
    columns: dict[str, list[NDArray[Any]]] = {"items": [], "times": [], "weights": []}
    events: list[pd.Series] = []
    for frame in frames:
        rows = item_ids.encode_column(frame[ITEM])
        frame, rows = frame[rows > 0], rows[rows > 0]
        ids = frame[USER].to_numpy()
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.array([], int)
        users.append(pd.Index(ids[starts]))
        lengths.append(np.diff(np.append(starts, len(ids))))
        columns["items"].append(rows.astype(np.int32))
        times = frame[DATETIME].to_numpy() if DATETIME in frame else np.arange(len(ids))
        columns["times"].append(times.astype(np.int64))
        if WEIGHT in frame:
            columns["weights"].append(frame[WEIGHT].to_numpy(dtype=np.float32))
        if EVENT in frame:
            events.append(frame[EVENT])
    joined = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
    if not len(joined.get("items", ())):
        raise ValueError("histories need at least one event of a known item, got none; loosen the filters")
    all_lengths = np.concatenate(lengths).astype(np.int64)
    codes, names = pd.factorize(pd.concat(events), sort=True) if events else (None, ())
    if len(names) > 255:
        raise ValueError(f"a log may name at most 255 kinds of event, got {len(names)}; check the event column")
    return Histories(
        user_ids=Vocabulary(users[0].append(users[1:])),
        item_ids=item_ids,
        offsets=np.concatenate([[0], np.cumsum(all_lengths)]).astype(np.int64),
        lengths=all_lengths,
        events=None if codes is None else codes.astype(np.uint8),
        event_names=tuple(str(name) for name in names),
        time_kind=time_kind,
        content_hash=content_hash,
        **joined,
    )


def _frame_hash(frame: pd.DataFrame) -> str:
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return f"{np.bitwise_xor.reduce(rows * (np.arange(len(rows), dtype=np.uint64) + np.uint64(1))):016x}"
