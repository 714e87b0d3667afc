"""What a model may see and what it is asked: splits as prefixes of histories, and their audit."""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset.graph import Edges, Transitions
from attnrec.dataset.graph.audit import edge_findings, transition_findings
from attnrec.dataset.histories import Histories
from attnrec.dataset.vocabulary import Vocabulary

DAY_SECONDS = 86_400


class LeakageError(Exception):
    """A split lets a model see what it is asked."""


@dataclass(frozen=True, eq=False)
class Holdout:
    """Questions: what did each of `users` do after what `histories` shows of them?

    Attributes:
        histories: what the model may see; item rows are the catalogue's.
        users: who is asked, rows of `histories`, (n,).
        targets: item rows of the answers, user after user, (n_targets,).
        target_times: Unix seconds of the answers, (n_targets,).
        offsets: answers of `users[i]` are offsets[i] to offsets[i + 1], (n + 1,).
    """

    histories: Histories
    users: NDArray[np.int64]
    targets: NDArray[np.int64]
    target_times: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def only(self, chosen: NDArray[np.int64]) -> "Holdout":
        """The questions with the indices `chosen`, (n,)."""
        n_targets = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(n_targets)]).astype(np.int64)
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], n_targets)
        return Holdout(self.histories, self.users[chosen], self.targets[at], self.target_times[at], offsets)


@dataclass(frozen=True, eq=False)
class Split:
    """Events to train on, questions to choose by (`validation`), questions to report (`test`).

    Attributes:
        cutoff: Unix seconds: no training event at or after it (None when users are cut one by one).
    """

    train: Histories
    validation: Holdout
    test: Holdout
    cutoff: int | None = None


def split_last(histories: Histories) -> Split:
    """Leave one out: a user's last event is test, the second last validation; users with < 3 events only train."""
    asked = np.flatnonzero(histories.lengths >= 3)
    held = np.where(histories.lengths >= 3, histories.lengths, histories.lengths + 2)
    return Split(
        train=histories.up_to(held - 2),
        validation=_holdout(histories, asked, seen=held - 2, until=held - 1),
        test=_holdout(histories, asked, seen=np.minimum(held - 1, histories.lengths), until=held),
    )


def split_by_time(
    histories: Histories, cutoff: datetime | None = None, *, test_days: float = 7, validation_days: float = 7
) -> Split:
    """Train on what happened before the validation days, ask for what came in them, and after the cutoff.

    A user is asked when something of theirs lies before the cut and something after it.

    Args:
        histories: a log with real times.
        cutoff: start of the test part (UTC). Default: `test_days` before the log's last event.
        test_days: length of the test part when no cutoff is given, days.
        validation_days: the validation part lies just before the cutoff, days.

    Raises:
        ValueError: for a log without times, or a part in which nobody can be asked.
    """
    if histories.time_kind != "datetime":
        kind = {"order": "the order of arrival only", "none": "an unordered set"}[histories.time_kind]
        raise ValueError(f"split_by_time needs times, got {kind}; use split_last or split_predefined")
    visible = histories.times[histories.positions()]
    latest = int(visible.max()) + 1
    if cutoff is not None and cutoff.tzinfo is None:
        cutoff = cutoff.replace(tzinfo=UTC)
    cut = int(cutoff.timestamp()) if cutoff else latest - round(test_days * DAY_SECONDS)
    validation_cut = cut - round(validation_days * DAY_SECONDS)
    users = np.repeat(np.arange(histories.n_users), histories.lengths)

    def before(moment: int) -> NDArray[np.int64]:
        return np.bincount(users[visible < moment], minlength=histories.n_users).astype(np.int64)

    def asked(seen: NDArray[np.int64], until: NDArray[np.int64], part: str) -> Holdout:
        chosen = np.flatnonzero((seen > 0) & (until > seen))
        if not len(chosen):
            raise ValueError(f"the {part} part must hold events of users known before it, got none; move the cutoff")
        return _holdout(histories, chosen, seen=seen, until=until)

    train, known = before(validation_cut), before(cut)
    return Split(
        train=histories.up_to(train),
        validation=asked(train, known, "validation"),
        test=asked(known, histories.lengths, "test"),
        cutoff=validation_cut,
    )


def split_predefined(histories: Histories, n_test: NDArray[np.int64], *, validation_fraction: float = 0.1) -> Split:
    """A split that was given: each user's last `n_test` events are test, as joined by `join_predefined`.

    Args:
        histories: train and test events, test last in every history.
        n_test: test events of each user, (n_users,).
        validation_fraction: share of each user's train events kept for validation, the last ones
            (`join_predefined` puts an unordered set in random order first), rounded down.
    """
    given = histories.lengths - n_test
    train = given - np.floor(given * validation_fraction).astype(np.int64)
    return Split(
        train=histories.up_to(train),
        validation=_holdout(histories, np.flatnonzero((train > 0) & (given > train)), seen=train, until=given),
        test=_holdout(histories, np.flatnonzero((given > 0) & (n_test > 0)), seen=given, until=histories.lengths),
    )


def join_predefined(train: Histories, test: Histories, *, seed: int = 0) -> tuple[Histories, NDArray[np.int64]]:
    """Put a given test log behind its train log, user by user; unordered train events are shuffled once.

    Returns:
        The joined histories, in the rows of a catalogue of both, and each user's number of test events.
    """
    item_ids = Vocabulary(np.sort(train.item_ids.index.union(test.item_ids.index).to_numpy()), first=1)
    user_ids = Vocabulary(np.sort(train.user_ids.index.union(test.user_ids.index).to_numpy()))
    parts = [part.recode(item_ids) for part in (train, test)]
    users = [np.repeat(user_ids.encode_column(pd.Series(p.user_ids.ids)), p.lengths) for p in parts]
    places = [np.arange(len(owner)) for owner in users]
    if not train.ordered:
        places[0] = np.random.default_rng(seed).permutation(len(places[0]))
    order = np.lexsort((np.concatenate(places), np.repeat([0, 1], [len(u) for u in users]), np.concatenate(users)))
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


def audit_split(
    split: Split,
    *,
    edges: Edges | tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    transitions: Transitions | None = None,
) -> None:
    """Fail when the training part, a visible history or a graph holds what is asked.

    A graph may join only what training events join, no more often than they do, and may hold no event at or after the
    cutoff.

    Args:
        split: what is about to be trained and evaluated on.
        edges: a graph of users and items, or only (users, items) rows of one, each (n_edges,), repeats allowed.
        transitions: a graph of items by item; beside it stands what training makes with the same settings.

    Raises:
        LeakageError: naming the part, how many leaks, and of a graph the first one by id.
        ValueError: for a graph with rows that the split does not have.
    """
    train = split.train
    if split.cutoff is not None and train.n_events:
        late = int((train.times[train.positions()] >= split.cutoff).sum())
        _forbid(late, "the training part must end before the cutoff", f"{late} later events")
    for name, holdout in (("validation", split.validation), ("test", split.test)):
        seen = holdout.histories
        n_answers = np.diff(holdout.offsets)
        more = int((train.lengths[holdout.users] > seen.lengths[holdout.users]).sum())
        _forbid(more, f"training must see no more than the {name} questions show", f"{more} users with more")
        other = _n_foreign_events(train, seen)
        _forbid(other, f"training must be the start of what the {name} questions show", f"{other} other events")
        over = int((seen.lengths[holdout.users] + n_answers > np.diff(seen.offsets)[holdout.users]).sum())
        _forbid(
            over,
            f"{name} answers must lie behind the visible history",
            f"{over} users whose answers are in it",
        )
        at = np.arange(len(holdout.targets)) + np.repeat(
            (seen.offsets[:-1] + seen.lengths)[holdout.users] - holdout.offsets[:-1], n_answers
        )
        strange = int((seen.items[at] != holdout.targets).sum())
        _forbid(strange, f"{name} answers must be what follows the visible history", f"{strange} that are not")
        if seen.ordered:
            last = seen.times[seen.offsets[holdout.users] + seen.lengths[holdout.users] - 1]
            past = int((holdout.target_times < np.repeat(last, n_answers)).sum())
            _forbid(past, f"{name} answers must not be older than what is seen", f"{past} events after the cut")
    findings = [] if edges is None else [edge_findings(train, edges, cutoff=split.cutoff)]
    findings += [] if transitions is None else [transition_findings(train, transitions, cutoff=split.cutoff)]
    for finding in chain(*findings):
        _forbid(*finding, what_to_do="build the graph from split.train")


def _n_foreign_events(train: Histories, seen: Histories) -> int:
    """Training events that are not where the log has them: 0 when training histories are prefixes."""
    if train.items is seen.items and train.offsets is seen.offsets:
        return 0
    places = train.positions()
    return int((train.items[places] != seen.items[np.minimum(places, len(seen.items) - 1)]).sum())


def _forbid(count: int, rule: str, came: str, *, what_to_do: str = "rebuild the split from the log") -> None:
    if count:
        raise LeakageError(f"{rule}, got {came}; {what_to_do}")


def _holdout(
    histories: Histories, users: NDArray[np.int64], *, seen: NDArray[np.int64], until: NDArray[np.int64]
) -> Holdout:
    n_targets = (until - seen)[users]
    offsets = np.concatenate([[0], np.cumsum(n_targets)]).astype(np.int64)
    at = np.arange(offsets[-1]) + np.repeat((histories.offsets[:-1] + seen)[users] - offsets[:-1], n_targets)
    return Holdout(
        histories=histories.up_to(seen),
        users=users,
        targets=histories.items[at].astype(np.int64),
        target_times=histories.times[at],
        offsets=offsets,
    )
