"""Build `Histories` from a frame of interactions or from ingested partitions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset.histories import Histories, TimeKind
from attnrec.dataset.vocabulary import Vocabulary
from attnrec.schema import DATETIME, EVENT, ITEM, USER, WEIGHT, check_interactions


def histories_from_frame(frame: pd.DataFrame) -> Histories:
    """Build histories from a frame of interactions (see `schema.check_interactions`).

    Args:
        frame: user_id, item_id and optionally datetime, weight, event. Without datetime, histories are unordered sets.

    Raises:
        ValueError: if the frame does not follow the schema.
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
    """Build histories from ingested partitions, with one partition in memory at a time.

    Args:
        parts: Parquet files, each sorted by user and time; all events of a user are in one file.
        time_kind: meaning of the time column, see `Histories`.
        content_hash: hash of the log, stored with the arrays.
        min_item_events: drop items with fewer events in the whole log.
        min_user_events: drop users with fewer events, counted after rare items are dropped.

    Raises:
        ValueError: if no event is left.
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
    """Concatenate sorted frames with disjoint users into flat arrays."""
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
        raise ValueError(
            "histories need at least one event, got none after filtering; lower min_item_events or min_user_events"
        )
    all_lengths = np.concatenate(lengths).astype(np.int64)
    codes, names = pd.factorize(pd.concat(events), sort=True) if events else (None, ())
    if len(names) > 255:
        raise ValueError(f"a log can have at most 255 event types, got {len(names)}; check the event column")
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
