"""The history of one user from a list of item ids or a frame of events."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from attnrec.dataset import Histories, Vocabulary, anonymous_history, histories_from_frame
from attnrec.dataset.anonymous import ANONYMOUS_USER
from attnrec.schema import USER


def one_history(history: Sequence[Any] | pd.DataFrame, item_ids: Vocabulary) -> Histories:
    """Return the history of one user in the item rows of `item_ids`; unknown items are left out.

    Args:
        history: item ids, oldest first; or a frame of item_id, datetime and optionally weight, event and the user_id
            of one user (see `schema.check_interactions`), in any order.
        item_ids: vocabulary of the model.

    Raises:
        ValueError: for a string instead of a list, a frame of several users, or a frame that violates the schema.
    """
    if not isinstance(history, pd.DataFrame):
        return anonymous_history(history, item_ids)
    if USER in history and history[USER].nunique() > 1:
        first = history[USER].unique()[0]
        raise ValueError(
            f"a history must belong to one user, got {history[USER].nunique()} users; select one, such as "
            f"frame[frame.{USER} == {first!r}]"
        )
    if history.empty:
        return anonymous_history([], item_ids)
    frame = history if USER in history else history.assign(**{USER: ANONYMOUS_USER})
    return histories_from_frame(frame).recode(item_ids)
