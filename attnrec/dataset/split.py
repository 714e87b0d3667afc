"""Train/validation/test splits; every part is a prefix of the histories."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset.histories import Histories
from attnrec.dataset.vocabulary import Vocabulary

DAY_SECONDS = 86_400


@dataclass(frozen=True, eq=False)
class Holdout:
    """Held-out events of users: the targets that follow their visible history.

    Attributes:
        histories: the visible histories of all users, in the item rows of the catalogue.
        users: users with targets, rows of `histories`, (n,).
        targets: item rows of the held-out events, user by user, (n_targets,).
        target_times: Unix seconds of the held-out events, (n_targets,).
        offsets: the targets of `users[i]` are at offsets[i] to offsets[i + 1], (n + 1,).
    """

    histories: Histories
    users: NDArray[np.int64]
    targets: NDArray[np.int64]
    target_times: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def select(self, indices: NDArray[np.int64]) -> "Holdout":
        """Return the holdout of the users at `indices` of `users`, (m,)."""
        n_targets = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(n_targets)]).astype(np.int64)
        positions = np.arange(offsets[-1]) + np.repeat(self.offsets[indices] - offsets[:-1], n_targets)
        return Holdout(
            self.histories, self.users[indices], self.targets[positions], self.target_times[positions], offsets
        )


@dataclass(frozen=True, eq=False)
class Split:
    """A train/validation/test split.

    Attributes:
        train: training events.
        validation: targets for model selection.
        test: targets for the final evaluation.
        cutoff: end of the training period, Unix seconds: every training event is before it. None for splits per user.
    """

    train: Histories
    validation: Holdout
    test: Holdout
    cutoff: int | None = None


def split_last(histories: Histories) -> Split:
    """Split by leave-one-out: each user's last event is the test target, the second last the validation target.

    Users with fewer than 3 events are used for training only.
    """
    users = np.flatnonzero(histories.lengths >= 3)
    test_ends = np.where(histories.lengths >= 3, histories.lengths, histories.lengths + 2)
    return Split(
        train=histories.up_to(test_ends - 2),
        validation=_holdout(histories, users, visible=test_ends - 2, ends=test_ends - 1),
        test=_holdout(histories, users, visible=np.minimum(test_ends - 1, histories.lengths), ends=test_ends),
    )


def split_by_time(
    histories: Histories, cutoff: datetime | None = None, *, test_days: float = 7, validation_days: float = 7
) -> Split:
    """Split at two points in time: training period, validation period, test period.

    A user has targets in a period if the user has events before it and in it.

    Args:
        histories: a log with timestamps.
        cutoff: start of the test period (UTC). Default: `test_days` before the last event of the log.
        test_days: length of the test period if there is no `cutoff`, days.
        validation_days: length of the validation period, which ends at the cutoff, days.

    Raises:
        ValueError: if the log has no timestamps, or no user has targets in one of the periods.
    """
    if histories.time_kind != "datetime":
        kind = {"order": "the order of events only", "none": "unordered sets"}[histories.time_kind]
        raise ValueError(f"split_by_time needs timestamps, got {kind}; use split_last or split_predefined")
    times = histories.times[histories.positions()]
    end = int(times.max()) + 1
    if cutoff is not None and cutoff.tzinfo is None:
        cutoff = cutoff.replace(tzinfo=UTC)
    test_start = int(cutoff.timestamp()) if cutoff else end - round(test_days * DAY_SECONDS)
    validation_start = test_start - round(validation_days * DAY_SECONDS)
    event_users = np.repeat(np.arange(histories.n_users), histories.lengths)

    def lengths_before(time: int) -> NDArray[np.int64]:
        return np.bincount(event_users[times < time], minlength=histories.n_users).astype(np.int64)

    def holdout(visible: NDArray[np.int64], ends: NDArray[np.int64], period: str) -> Holdout:
        users = np.flatnonzero((visible > 0) & (ends > visible))
        if not len(users):
            raise ValueError(
                f"the {period} period must contain events of users with earlier events, got none; "
                "set split.cutoff, split.test_days or split.validation_days, or use split.kind = 'last'"
            )
        return _holdout(histories, users, visible=visible, ends=ends)

    train_lengths, test_visible = lengths_before(validation_start), lengths_before(test_start)
    return Split(
        train=histories.up_to(train_lengths),
        validation=holdout(train_lengths, test_visible, "validation"),
        test=holdout(test_visible, histories.lengths, "test"),
        cutoff=validation_start,
    )


def split_predefined(histories: Histories, n_test: NDArray[np.int64], *, validation_fraction: float = 0.1) -> Split:
    """Split off a predefined test part: the last `n_test` events of each user, see `join_predefined`.

    Args:
        histories: training and test events, the test events last in every history.
        n_test: number of test events of each user, (n_users,).
        validation_fraction: share of each user's other events used for validation, rounded down. These are the last
            ones; `join_predefined` shuffles unordered sets before.
    """
    n_before_test = histories.lengths - n_test
    n_train = n_before_test - np.floor(n_before_test * validation_fraction).astype(np.int64)
    validation_users = np.flatnonzero((n_train > 0) & (n_before_test > n_train))
    test_users = np.flatnonzero((n_before_test > 0) & (n_test > 0))
    return Split(
        train=histories.up_to(n_train),
        validation=_holdout(histories, validation_users, visible=n_train, ends=n_before_test),
        test=_holdout(histories, test_users, visible=n_before_test, ends=histories.lengths),
    )


def join_predefined(train: Histories, test: Histories, *, seed: int = 0) -> tuple[Histories, NDArray[np.int64]]:
    """Append a predefined test log to its training log, user by user.

    Args:
        train: the training log; the events of unordered sets are shuffled per user.
        test: the test log.
        seed: seed of the shuffling.

    Returns:
        The joined histories over the items of both logs, and the number of test events of each user, (n_users,).
    """
    item_ids = Vocabulary(np.sort(train.item_ids.index.union(test.item_ids.index).to_numpy()), first=1)
    user_ids = Vocabulary(np.sort(train.user_ids.index.union(test.user_ids.index).to_numpy()))
    parts = [part.recode(item_ids) for part in (train, test)]
    users = [np.repeat(user_ids.encode_column(pd.Series(p.user_ids.ids)), p.lengths) for p in parts]
    ranks = [np.arange(len(event_users)) for event_users in users]
    if not train.ordered:
        ranks[0] = np.random.default_rng(seed).permutation(len(ranks[0]))
    order = np.lexsort((np.concatenate(ranks), np.repeat([0, 1], [len(u) for u in users]), np.concatenate(users)))
    lengths = np.bincount(np.concatenate(users), minlength=len(user_ids)).astype(np.int64)
    joined = Histories(
        user_ids=user_ids,
        item_ids=item_ids,
        items=np.concatenate([p.items for p in parts])[order],
        times=np.concatenate([p.times for p in parts])[order],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        lengths=lengths,
        time_kind=train.time_kind,
        content_hash=f"{train.content_hash}+{test.content_hash}",
    )
    return joined, np.bincount(users[1], minlength=len(user_ids)).astype(np.int64)


def _holdout(
    histories: Histories, users: NDArray[np.int64], *, visible: NDArray[np.int64], ends: NDArray[np.int64]
) -> Holdout:
    """Make the events from `visible` to `ends` of each user's history the targets of `users`."""
    n_targets = (ends - visible)[users]
    offsets = np.concatenate([[0], np.cumsum(n_targets)]).astype(np.int64)
    first_targets = (histories.offsets[:-1] + visible)[users]
    positions = np.arange(offsets[-1]) + np.repeat(first_targets - offsets[:-1], n_targets)
    return Holdout(
        histories=histories.up_to(visible),
        users=users,
        targets=histories.items[positions].astype(np.int64),
        target_times=histories.times[positions],
        offsets=offsets,
    )
