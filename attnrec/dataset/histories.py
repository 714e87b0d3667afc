"""User histories as flat arrays: the events of user u are at offsets[u] to offsets[u] + lengths[u]."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset.vocabulary import Vocabulary
from attnrec.storage import MANIFEST, new_folder, read_json, write_json

TimeKind = Literal["datetime", "order", "none"]
UNKNOWN_EVENT = 255
"""Code of an event type that is not in the model's `event_names`."""

COLUMNS = ("items", "times", "weights", "events")


@dataclass(frozen=True, eq=False)
class Histories:
    """Interaction histories of all users, in time order.

    A view (`up_to`) shows a prefix of every history and shares the arrays. The visible events of a user are the first
    `lengths` of the user's stored events.

    Attributes:
        user_ids: user id <-> user row, starting at 0.
        item_ids: item id <-> item row, starting at 1; row 0 is padding.
        items: item row of each stored event, (n_stored,) int32, sorted by user, time and input order.
        times: Unix seconds of each stored event, (n_stored,) int64; the input order if the log has no timestamps.
        offsets: position of each user's first event, and n_stored as the last entry, (n_users + 1,) int64.
        lengths: number of visible events of each user, (n_users,) int64.
        weights: interaction weights, (n_stored,) float32; None if the log has no weights.
        events: index into `event_names` of each event, (n_stored,) uint8; None if the log has no event types.
        event_names: names of the event types.
        time_kind: "datetime": timestamps; "order": `times` is the input order only; "none": unordered sets.
        content_hash: hash of the log.
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
        """False for unordered sets, which sequence models do not accept."""
        return self.time_kind != "none"

    @property
    def n_users(self) -> int:
        """Number of users, including those without visible events."""
        return len(self.lengths)

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue, without padding: item rows are 1 to n_items."""
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        """Number of visible events."""
        return int(self.lengths.sum())

    def up_to(self, lengths: NDArray[np.int64]) -> "Histories":
        """Return a view in which only the first `lengths` events of each user, (n_users,), are visible."""
        assert (lengths <= np.diff(self.offsets)).all(), "a view must not be longer than the stored history"
        return replace(self, lengths=lengths)

    def items_of(self, user: int) -> NDArray[np.int32]:
        """Return the item rows of a user's visible events, oldest first."""
        start = self.offsets[user]
        return self.items[start : start + self.lengths[user]]

    def positions(self, users: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return the flat array positions of all visible events of `users` (default: all users), user by user."""
        users = np.arange(self.n_users) if users is None else users
        lengths = self.lengths[users]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        return np.arange(total) + np.repeat(self.offsets[users] - (ends - lengths), lengths)

    def item_counts(self) -> NDArray[np.int64]:
        """Count the visible events of each item row, (n_items + 1,); the count of padding is 0."""
        return np.bincount(self.items[self.positions()], minlength=self.n_items + 1)

    def recode(self, item_ids: Vocabulary) -> "Histories":
        """Convert to the item rows of another catalogue; events of items that are not in it are dropped."""
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
        """Convert event codes to indices into `names`; event types that are not in `names` become `UNKNOWN_EVENT`.

        The codes of a log follow the alphabetical order of its event types, so logs of two days can have different
        codes.
        """
        if self.events is None or not names or self.event_names == names:
            return self
        code_of = {name: code for code, name in enumerate(names)}
        codes = np.array([code_of.get(name, UNKNOWN_EVENT) for name in self.event_names], dtype=np.uint8)
        return replace(self, events=codes[self.events], event_names=names)

    def to_datetime(self, times: NDArray[np.int64]) -> pd.DatetimeIndex:
        """Convert times to UTC timestamps; NaT if the log has no timestamps."""
        if self.time_kind != "datetime":
            return pd.DatetimeIndex([pd.NaT] * len(times), tz="UTC")
        return pd.to_datetime(times, unit="s", utc=True)

    def save(self, folder: Path) -> None:
        """Write the arrays to a new `folder`, the manifest last.

        Raises:
            StorageError: if the disk is full; the incomplete folder is removed.
        """
        with new_folder(folder) as target:
            for name in (*COLUMNS, "offsets", "lengths"):
                if (column := getattr(self, name)) is not None:
                    np.save(target / f"{name}.npy", column, allow_pickle=False)
            self.user_ids.save(target / "users.parquet")
            self.item_ids.save(target / "items.parquet")
            metadata = {
                "event_names": self.event_names,
                "time_kind": self.time_kind,
                "content_hash": self.content_hash,
            }
            counts = {"n_users": self.n_users, "n_items": self.n_items, "n_events": self.n_events}
            write_json(target / MANIFEST, metadata | counts)

    @classmethod
    def load(cls, folder: Path) -> "Histories":
        """Open saved histories; the arrays are memory-mapped and never written."""
        metadata = read_json(folder / MANIFEST)
        arrays = {
            name: np.load(path, mmap_mode="c")
            for name in (*COLUMNS, "offsets", "lengths")
            if (path := folder / f"{name}.npy").exists()
        }
        return cls(
            user_ids=Vocabulary.load(folder / "users.parquet"),
            item_ids=Vocabulary.load(folder / "items.parquet"),
            event_names=tuple(metadata["event_names"]),
            time_kind=metadata["time_kind"],
            content_hash=metadata["content_hash"],
            **arrays,
        )
