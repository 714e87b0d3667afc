"""Recommendations as tables: as they are published, and as a notebook has them.

Shapes: U users, k places, m reasons.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attnrec.dataset import Histories
from attnrec.schema import ITEM, USER
from attnrec.scoring.recommendations import Recommendations

REASON = pa.struct([(ITEM, pa.string()), ("contribution", pa.float32()), ("weight", pa.float32())])

SOURCES = pa.array(["popularity", "history"])
"""Where a recommendation comes from: what everyone likes, or the user's own history."""


def to_table(found: Recommendations, histories: Histories, *, model_version: str, scored_at: datetime) -> pa.Table:
    """One row per (user, rank), as it is published.

    Args:
        found: what `recommend` gave.
        histories: whose ids are used.
        model_version: which model made them.
        scored_at: the run's logical time, UTC; a parameter, so that two runs write the same bytes.

    Returns:
        user_id, rank (from 1), item_id, score, source ("history", or "popularity" for users of whom nothing is known:
        their scores are the items' biases), reasons (list of item_id, contribution, weight), explained_share, other_events, item_bias,
        model_version, scored_at. score = sum of the reasons' contributions + other_events + item_bias.
    """
    filled = found.items > 0
    places = np.broadcast_to(np.arange(1, found.items.shape[1] + 1, dtype=np.int32), found.items.shape)
    users = np.broadcast_to(found.users[:, None], found.items.shape)
    n_rows, other_events = int(filled.sum()), found.other_events[filled]
    version = pa.DictionaryArray.from_arrays(np.zeros(n_rows, np.int32), pa.array([model_version]))
    return pa.table(
        {
            USER: histories.user_ids.to_arrow(users[filled]),
            "rank": pa.array(places[filled]),
            ITEM: histories.item_ids.to_arrow(found.items[filled]),
            "score": pa.array(found.scores[filled]),
            "source": SOURCES.take(pa.array(_known(histories, users[filled]))),
            "reasons": _reason_lists(found, filled, histories),
            "explained_share": pa.array(found.explained_share[filled], mask=np.isnan(found.explained_share[filled])),
            "other_events": pa.array(other_events, mask=np.isnan(other_events)),
            "item_bias": pa.array(found.item_bias[filled]),
            "model_version": version,
            "scored_at": pa.repeat(pa.scalar(scored_at, pa.timestamp("us", tz="UTC")), n_rows),
        }
    )


def recommendations_frame(found: Recommendations, histories: Histories) -> pd.DataFrame:
    """Recommendations as a frame with the log's own ids; reasons are lists of dicts."""
    users, places = np.nonzero(found.items > 0)
    decode = histories.item_ids.decode
    return pd.DataFrame(
        {
            USER: histories.user_ids.decode(found.users[users]),
            "rank": places + 1,
            ITEM: decode(found.items[users, places]),
            "score": found.scores[users, places],
            "source": SOURCES.to_numpy(zero_copy_only=False)[_known(histories, found.users[users])],
            "reasons": _reason_dicts(found, histories, users, places),
            "explained_share": found.explained_share[users, places],
            "other_events": found.other_events[users, places],
            "item_bias": found.item_bias[users, places],
        }
    )


def _known(histories: Histories, users: NDArray[np.int64]) -> NDArray[np.int8]:
    """1 for users with a history, else 0: places in `SOURCES`."""
    return (histories.lengths[users] > 0).astype(np.int8)


def _reason_dicts(
    found: Recommendations, histories: Histories, users: NDArray[np.int64], places: NDArray[np.int64]
) -> list[list[dict[str, Any]]]:
    items = found.reason_items[users, places]
    given = items > 0
    columns = (
        histories.item_ids.decode(items[given]),
        found.reason_contributions[users, places][given].tolist(),
        found.reason_weights[users, places][given].tolist(),
    )
    ends = np.cumsum(given.sum(1)).tolist()
    with _collector_paused():
        dicts = [
            {ITEM: item, "contribution": added, "weight": None if share != share else share}  # NaN is no share
            for item, added, share in zip(*columns, strict=True)
        ]
        return [dicts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Many lists and dicts at once, none of them in a cycle, make Python search the whole process for cycles.

    Such a search took 70 ms of the 650 that recommending to all users of ML-1M took.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table of recommendations as Parquet into a folder that is not yet visible (see `storage`)."""
    repeated = [USER, ITEM, "rank", "model_version", "scored_at", f"reasons.list.element.{ITEM}"]
    more: dict[str, Any] = {"use_dictionary": repeated}  # the stubs know only of all columns or none
    pq.write_table(table, path, compression="zstd", row_group_size=100_000, **more)


def _reason_lists(found: Recommendations, filled: NDArray[np.bool_], histories: Histories) -> pa.Array:
    items = found.reason_items[filled]
    given = items > 0
    offsets = np.concatenate([[0], np.cumsum(given.sum(1))]).astype(np.int32)
    weights = found.reason_weights[filled][given]
    columns: list[Any] = [
        histories.item_ids.to_arrow(items[given]),
        pa.array(found.reason_contributions[filled][given]),
        pa.array(weights, mask=np.isnan(weights)),
    ]
    structs = pa.StructArray.from_arrays(columns, fields=list(REASON))
    return pa.ListArray.from_arrays(pa.array(offsets), structs)
