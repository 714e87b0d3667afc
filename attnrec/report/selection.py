"""The part of a table of recommendations that a report is about: a few users, the same ones in every run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from attnrec.schema import ITEM, USER

NEEDED = (USER, "rank", ITEM, "score")
OPTIONAL = ("model_version", "scored_at")


@dataclass(frozen=True, eq=False)
class Published:
    """The rows of the users that a report is about.

    Attributes:
        rows: user_id and item_id as text, rank, score; by user in the order of `user_ids`, then by rank.
        user_ids: the users, in the order in which they go into the page.
        n_users: how many users there are recommendations for.
        model_version, scored_at: as published; "" where that is not said.
    """

    rows: pd.DataFrame
    user_ids: list[str]
    n_users: int
    model_version: str
    scored_at: str


def published(
    recommendations: pd.DataFrame | pa.Table, *, users: Sequence[Any] | None = None, n_users: int = 100
) -> Published:
    """The rows of a few users.

    Args:
        recommendations: as `recommendation_tables.to_table` or `Recommender.recommend` give them.
        users: user ids to show, in this order; default those whose ids hash lowest, as `tracking.examples.fixed_users` takes
            them, so that two runs show the same people.
        n_users: how many of the latter.

    Raises:
        ValueError: for missing columns, no rows, users that are not in the table, an item twice for one user, or
            recommendations of several runs.
    """
    table = _needed(recommendations)
    codes, ids = pd.factorize(table[USER].to_pandas().astype(str))
    if not len(ids):
        raise ValueError("a report needs recommendations of at least one user, got none; score some users first")
    chosen = _chosen(np.asarray(ids, dtype=object), users, n_users)
    order = np.full(len(ids), -1)
    order[chosen] = np.arange(len(chosen))
    of_chosen = order[codes] >= 0
    rows = table.filter(pa.array(of_chosen)).to_pandas()
    rows = rows.assign(**{USER: rows[USER].astype(str), ITEM: rows[ITEM].astype(str), "place": order[codes[of_chosen]]})
    rows = rows.sort_values(["place", "rank"], kind="stable", ignore_index=True)
    if (twice := rows.duplicated([USER, ITEM])).any():
        user_id, item_id = rows.loc[twice, [USER, ITEM]].iloc[0]
        raise ValueError(
            f"recommendations must hold an item once for each user, got {item_id!r} twice for {user_id!r}; "
            "give those of one run"
        )
    version, scored_at = (_same(rows, name) for name in OPTIONAL)
    return Published(rows[list(NEEDED)], [str(ids[code]) for code in chosen], len(ids), version, scored_at)


def _needed(recommendations: pd.DataFrame | pa.Table) -> pa.Table:
    table: Any = recommendations  # pyarrow has no types
    columns = table.column_names if isinstance(table, pa.Table) else list(table.columns)
    if missing := [name for name in NEEDED if name not in columns]:
        raise ValueError(
            f"recommendations need the columns {', '.join(NEEDED)}, got none called {', '.join(missing)}; "
            "give what scoring published, or what recommend() returned"
        )
    kept = [name for name in (*NEEDED, *OPTIONAL) if name in columns]
    return (
        table.select(kept) if isinstance(table, pa.Table) else pa.Table.from_pandas(table[kept], preserve_index=False)
    )


def _chosen(ids: NDArray[np.object_], users: Sequence[Any] | None, n_users: int) -> NDArray[np.int64]:
    """Places in `ids` of the users to show."""
    if users is None:
        if n_users < 1:
            raise ValueError(f"a report needs at least one user, got n_users = {n_users}; ask for more")
        return np.argsort(pd.util.hash_array(ids), kind="stable")[:n_users]
    asked = list(dict.fromkeys(str(user) for user in ([users] if isinstance(users, str) else users)))
    places = pd.Index(ids).get_indexer(pd.Index(asked, dtype=object))
    if not asked or (places < 0).any():
        unknown = repr(asked[int(np.argmax(places < 0))]) if asked else "an empty list"
        raise ValueError(f"users must be some of those recommended to, got {unknown}; give ids of the table")
    return places


def _same(rows: pd.DataFrame, name: str) -> str:
    """The one value of a column, as text (a time in ISO 8601); "" where there is none."""
    found = rows[name].dropna().unique() if name in rows else []
    values = [value.isoformat() if isinstance(value, pd.Timestamp) else str(value) for value in found]
    if len(values) > 1:
        raise ValueError(
            f"recommendations must be of one run, got {name} {values[0]!r} and {values[1]!r}; give those of one"
        )
    return values[0] if values else ""
