"""The history of somebody who is in no log: a list of item ids, oldest first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnrec.dataset.histories import Histories
from attnrec.dataset.vocabulary import Vocabulary

ANONYMOUS_USER = "(history)"
"""The user_id of a history that was given as a list."""


def anonymous_history(history: Sequence[Any], item_ids: Vocabulary) -> Histories:
    """One anonymous_history's history, in the item rows of `item_ids`; an item id that is unknown is left out.

    Raises:
        ValueError: for a text instead of a list.
    """
    if isinstance(history, str):
        raise ValueError(f"history must be a list of item ids, got the text {history!r}; write [{history!r}]")
    rows = item_ids.encode(history)
    rows = rows[rows > 0].astype(np.int32)
    return Histories(
        user_ids=Vocabulary([ANONYMOUS_USER]),
        item_ids=item_ids,
        items=rows,
        times=np.arange(len(rows)),
        offsets=np.array([0, len(rows)]),
        lengths=np.array([len(rows)]),
        time_kind="order",
    )
