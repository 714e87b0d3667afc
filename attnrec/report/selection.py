"""Selection of the users of a report: a hash of the ids, so that every run shows the same users."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from attnrec.schema import ITEM, USER

REQUIRED = (USER, "rank", ITEM, "score")
OPTIONAL = ("model_version", "scored_at")


@dataclass(frozen=True, eq=False)
class SelectedRecommendations:
    """The recommendations of the selected users.

    Attributes:
        rows: user_id and item_id as strings, rank, score; by user in the order of `user_ids`, then by rank.
        user_ids: the selected users, in the order of the page.
        n_users: number of users with recommendations.
        model_version, scored_at: as published; "" if missing.
    """

    rows: pd.DataFrame
    user_ids: list[str]
    n_users: int
    model_version: str
    scored_at: str


def select_users(
    recommendations: pd.DataFrame | pa.Table, *, users: Sequence[Any] | None = None, n_users: int = 100
) -> SelectedRecommendations:
    """Select the recommendations of some users.

    Args:
        recommendations: the result of `scoring.tables.to_table` or `Recommender.recommend`.
        users: user ids to show, in this order; default those with the lowest hash of the id, as in
            `tracking.examples.fixed_users`.
        n_users: number of users if `users` is None.

    Raises:
        ValueError: for missing columns, no rows, users that are not in the table, an item twice for one user, or
            recommendations of several runs.
    """
    table = _relevant_columns(recommendations)
    codes, ids = pd.factorize(table[USER].to_pandas().astype(str))
    if not len(ids):
        raise ValueError("recommendations must contain at least one user, got an empty table; score some users first")
    selected = _selected_users(np.asarray(ids, dtype=object), users, n_users)
    order = np.full(len(ids), -1)
    order[selected] = np.arange(len(selected))
    is_selected = order[codes] >= 0
    rows = table.filter(pa.array(is_selected)).to_pandas()
    rows = rows.assign(
        **{USER: rows[USER].astype(str), ITEM: rows[ITEM].astype(str), "order": order[codes[is_selected]]}
    )
    rows = rows.sort_values(["order", "rank"], kind="stable", ignore_index=True)
    if (duplicated := rows.duplicated([USER, ITEM])).any():
        user_id, item_id = rows.loc[duplicated, [USER, ITEM]].iloc[0]
        raise ValueError(
            f"recommendations must contain an item once per user, got {item_id!r} twice for {user_id!r}; "
            "pass the recommendations of one run"
        )
    version, scored_at = (_single_value(rows, name) for name in OPTIONAL)
    return SelectedRecommendations(
        rows[list(REQUIRED)], [str(ids[code]) for code in selected], len(ids), version, scored_at
    )


def _relevant_columns(recommendations: pd.DataFrame | pa.Table) -> pa.Table:
    table: Any = recommendations  # pyarrow has no types
    columns = table.column_names if isinstance(table, pa.Table) else list(table.columns)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise ValueError(
            f"recommendations need the columns {', '.join(REQUIRED)}, got a table without {', '.join(missing)}; "
            "pass the published table or the result of recommend()"
        )
    kept = [name for name in (*REQUIRED, *OPTIONAL) if name in columns]
    return (
        table.select(kept) if isinstance(table, pa.Table) else pa.Table.from_pandas(table[kept], preserve_index=False)
    )


def _selected_users(ids: NDArray[np.object_], users: Sequence[Any] | None, n_users: int) -> NDArray[np.int64]:
    """Return the positions in `ids` of the users to show."""
    if users is None:
        if n_users < 1:
            raise ValueError(f"n_users must be at least 1, got {n_users}; set it to 1 or more")
        return np.argsort(pd.util.hash_array(ids), kind="stable")[:n_users]
    requested = list(dict.fromkeys(str(user) for user in ([users] if isinstance(users, str) else users)))
    positions = pd.Index(ids).get_indexer(pd.Index(requested, dtype=object))
    if not requested or (positions < 0).any():
        unknown = repr(requested[int(np.argmax(positions < 0))]) if requested else "an empty list"
        raise ValueError(f"users must be in the recommendations, got {unknown}; pass user ids of the table")
    return positions


def _single_value(rows: pd.DataFrame, name: str) -> str:
    """Return the only value of a column as a string (a time in ISO 8601); "" if there is none."""
    unique = rows[name].dropna().unique() if name in rows else []
    values = [value.isoformat() if isinstance(value, pd.Timestamp) else str(value) for value in unique]
    if len(values) > 1:
        raise ValueError(
            f"recommendations must be from one run, got {name} {values[0]!r} and {values[1]!r}; pass those of one run"
        )
    return values[0] if values else ""
