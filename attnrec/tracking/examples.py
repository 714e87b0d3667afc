"""Example recommendations of a run: a few fixed users with their history, their top-k items and the reasons."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.explanation import because
from attnrec.recommender import Recommender
from attnrec.schema import ITEM, USER

N_HISTORY_ITEMS = 10


def fixed_users(user_ids: NDArray[np.object_], *, n: int) -> NDArray[np.int64]:
    """Choose the n users whose ids have the smallest hashes: the same users in every run while they are in the log.

    Args:
        user_ids: ids to choose from.
        n: number of users.

    Returns:
        Positions in `user_ids`, ascending, (n,) or fewer.
    """
    hashes = pd.util.hash_array(np.asarray(user_ids).astype(str).astype(object))
    return np.sort(np.argsort(hashes, kind="stable")[:n])


def examples_table(recommender: Recommender, users: NDArray[np.int64], *, k: int = 10) -> pd.DataFrame:
    """Describe the history, the recommendations and the reasons of some users as text, one row per user.

    Args:
        recommender: a model with histories.
        users: user rows.
        k: recommendations per user.

    Returns:
        user_id, history (the latest 10 items, latest last), top (best first), because (reasons of the first item;
        empty for a model without exact reasons and for a user without recommendations).
    """
    histories = recommender.histories
    assert histories is not None, "examples need histories"
    user_ids = histories.user_ids.decode(users)
    recommendations = recommender.recommend(user_ids, k=k)
    rows = []
    for user, user_id in zip(users, user_ids, strict=True):
        history = histories.item_ids.decode(histories.items_of(user)[-N_HISTORY_ITEMS:])
        of_user = recommendations[recommendations[USER] == user_id]
        rows.append(
            {
                USER: str(user_id),
                "history": ", ".join(map(str, history)),
                "top": ", ".join(map(str, of_user[ITEM])),
                "because": _because(of_user.iloc[0]) if recommender.model.exact_reasons and len(of_user) else "",
            }
        )
    return pd.DataFrame(rows)


def _because(row: "pd.Series", *, n: int = 3) -> str:
    """Return the explanation sentence of one row of recommendations, with its n largest reasons."""
    reasons = [(str(reason[ITEM]), float(reason["contribution"])) for reason in row["reasons"][:n]]
    return because(reasons, score=float(row["score"]), item_bias=float(row["item_bias"]))
