"""Recommendations as tables: an Arrow table to publish as Parquet, and a pandas frame for notebooks.

Shapes: U users, k ranks, m reasons.
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
"""Values of the column `source`: "popularity" for users without a history (item bias alone), else "history"."""


def to_table(
    recommendations: Recommendations, histories: Histories, *, model_version: str, scored_at: datetime
) -> pa.Table:
    """Return the published table, one row per (user, rank).

    Args:
        recommendations: from `recommend`.
        histories: the histories that were scored; provide the user and item ids.
        model_version: label of the model, such as attnrec/3.
        scored_at: logical time of the run, UTC; a parameter, so that two runs write the same bytes.

    Returns:
        user_id, rank (from 1), item_id, score, source ("history", or "popularity" for users without a history, whose
        scores are the item biases), reasons (list of item_id, contribution, weight), explained_share, other_events,
        item_bias, model_version, scored_at. score = sum of the reasons' contributions + other_events + item_bias.
    """
    filled = recommendations.items > 0
    ranks = np.broadcast_to(
        np.arange(1, recommendations.items.shape[1] + 1, dtype=np.int32), recommendations.items.shape
    )
    users = np.broadcast_to(recommendations.users[:, None], recommendations.items.shape)
    n_rows, other_events = int(filled.sum()), recommendations.other_events[filled]
    version = pa.DictionaryArray.from_arrays(np.zeros(n_rows, np.int32), pa.array([model_version]))
    return pa.table(
        {
            USER: histories.user_ids.to_arrow(users[filled]),
            "rank": pa.array(ranks[filled]),
            ITEM: histories.item_ids.to_arrow(recommendations.items[filled]),
            "score": pa.array(recommendations.scores[filled]),
            "source": SOURCES.take(pa.array(_has_history(histories, users[filled]))),
            "reasons": _reason_lists(recommendations, filled, histories),
            "explained_share": pa.array(
                recommendations.explained_share[filled], mask=np.isnan(recommendations.explained_share[filled])
            ),
            "other_events": pa.array(other_events, mask=np.isnan(other_events)),
            "item_bias": pa.array(recommendations.item_bias[filled]),
            "model_version": version,
            "scored_at": pa.repeat(pa.scalar(scored_at, pa.timestamp("us", tz="UTC")), n_rows),
        }
    )


def recommendations_frame(recommendations: Recommendations, histories: Histories) -> pd.DataFrame:
    """Return recommendations as a frame with the ids of the log (original types); reasons are lists of dicts."""
    users, ranks = np.nonzero(recommendations.items > 0)
    decode = histories.item_ids.decode
    return pd.DataFrame(
        {
            USER: histories.user_ids.decode(recommendations.users[users]),
            "rank": ranks + 1,
            ITEM: decode(recommendations.items[users, ranks]),
            "score": recommendations.scores[users, ranks],
            "source": SOURCES.to_numpy(zero_copy_only=False)[_has_history(histories, recommendations.users[users])],
            "reasons": _reason_dicts(recommendations, histories, users, ranks),
            "explained_share": recommendations.explained_share[users, ranks],
            "other_events": recommendations.other_events[users, ranks],
            "item_bias": recommendations.item_bias[users, ranks],
        }
    )


def _has_history(histories: Histories, users: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return 1 for users with a history and 0 for others: positions in `SOURCES`."""
    return (histories.lengths[users] > 0).astype(np.int8)


def _reason_dicts(
    recommendations: Recommendations, histories: Histories, users: NDArray[np.int64], ranks: NDArray[np.int64]
) -> list[list[dict[str, Any]]]:
    items = recommendations.reason_items[users, ranks]
    is_reason = items > 0
    columns = (
        histories.item_ids.decode(items[is_reason]),
        recommendations.reason_contributions[users, ranks][is_reason].tolist(),
        recommendations.reason_weights[users, ranks][is_reason].tolist(),
    )
    ends = np.cumsum(is_reason.sum(1)).tolist()
    with _gc_paused():
        dicts = [
            {ITEM: item, "contribution": contribution, "weight": None if weight != weight else weight}  # NaN to None
            for item, contribution, weight in zip(*columns, strict=True)
        ]
        return [dicts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector.

    Creating many lists and dicts triggers full collections, although none of them is in a cycle. They took 70 of the
    650 ms that recommending to all users of ML-1M took.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table of recommendations as Parquet into a folder that is not published yet (see `attnrec.storage`)."""
    dictionary_columns = [USER, ITEM, "rank", "model_version", "scored_at", f"reasons.list.element.{ITEM}"]
    options: dict[str, Any] = {"use_dictionary": dictionary_columns}  # the type stubs allow only bool
    pq.write_table(table, path, compression="zstd", row_group_size=100_000, **options)


def _reason_lists(recommendations: Recommendations, filled: NDArray[np.bool_], histories: Histories) -> pa.Array:
    items = recommendations.reason_items[filled]
    is_reason = items > 0
    offsets = np.concatenate([[0], np.cumsum(is_reason.sum(1))]).astype(np.int32)
    weights = recommendations.reason_weights[filled][is_reason]
    columns: list[Any] = [
        histories.item_ids.to_arrow(items[is_reason]),
        pa.array(recommendations.reason_contributions[filled][is_reason]),
        pa.array(weights, mask=np.isnan(weights)),
    ]
    structs = pa.StructArray.from_arrays(columns, fields=list(REASON))
    return pa.ListArray.from_arrays(pa.array(offsets), structs)
