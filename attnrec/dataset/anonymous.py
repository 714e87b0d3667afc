"""Histories of users that are not in the log, from a list of item ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnrec.dataset.histories import Histories
from attnrec.dataset.vocabulary import Vocabulary

ANONYMOUS_USER = "(history)"
"""The user_id of a history that is given as a list of item ids."""


def anonymous_history(history: Sequence[Any], item_ids: Vocabulary) -> Histories:
    """Build the history of one anonymous user.

    Args:
        history: item ids, oldest first; unknown item ids are dropped.
        item_ids: the vocabulary of the model.

    Returns:
        Histories of one user, `ANONYMOUS_USER`, in the item rows of `item_ids`.

    Raises:
        ValueError: if `history` is a string.
    """
    if isinstance(history, str):
        raise ValueError(f"history must be a list of item ids, got the string {history!r}; write [{history!r}]")
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
