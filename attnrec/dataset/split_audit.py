"""Audit of splits, and of graphs built for them, for data leakage."""

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.graph import Edges, Transitions
from attnrec.dataset.graph.audit import edge_findings, transition_findings
from attnrec.dataset.histories import Histories
from attnrec.dataset.split import Holdout, Split


class LeakageError(Exception):
    """Training data, a visible history or a graph contains held-out targets."""


def audit_split(
    split: Split,
    *,
    edges: Edges | tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    transitions: Transitions | None = None,
) -> None:
    """Check a split and the graphs built for it for data leakage.

    Training events must be a prefix of every visible history, and targets must follow the visible history. A graph may
    only have edges and counts of training events, and no event at or after the cutoff.

    Args:
        split: the split to check.
        edges: a user-item graph, or only its (users, items) rows, (n_edges,) each, duplicates allowed.
        transitions: an item graph; it is compared with the transitions of the training part with equal settings.

    Raises:
        LeakageError: at the first violation, with the number of cases; for a graph also the ids of the first edge.
        ValueError: if a graph has rows that do not exist in the split.
    """
    train = split.train
    if split.cutoff is not None and train.n_events:
        n_late = int((train.times[train.positions()] >= split.cutoff).sum())
        _raise_if(n_late, "training events must be before the cutoff", f"{n_late} later events")
    for name, holdout in (("validation", split.validation), ("test", split.test)):
        _audit_visible(train, holdout, name)
        _audit_targets(holdout, name)
    findings = [] if edges is None else [edge_findings(train, edges, cutoff=split.cutoff)]
    findings += [] if transitions is None else [transition_findings(train, transitions, cutoff=split.cutoff)]
    for finding in chain(*findings):
        _raise_if(*finding, fix="build the graph from split.train")


def _audit_visible(train: Histories, holdout: Holdout, name: str) -> None:
    """Check that training events are a prefix of the visible histories."""
    visible, users = holdout.histories, holdout.users
    n_longer = int((train.lengths[users] > visible.lengths[users]).sum())
    _raise_if(
        n_longer,
        f"training histories must not be longer than the visible histories of the {name} part",
        f"{n_longer} users with longer ones",
    )
    n_different = _n_different_events(train, visible)
    _raise_if(
        n_different,
        f"training histories must be prefixes of the visible histories of the {name} part",
        f"{n_different} different events",
    )


def _audit_targets(holdout: Holdout, name: str) -> None:
    """Check that targets are the stored events right after the visible histories."""
    visible, users = holdout.histories, holdout.users
    n_targets = np.diff(holdout.offsets)
    n_overlapping = int((visible.lengths[users] + n_targets > np.diff(visible.offsets)[users]).sum())
    _raise_if(
        n_overlapping,
        f"{name} targets must come after the visible history",
        f"{n_overlapping} users with targets inside it",
    )
    ends = (visible.offsets[:-1] + visible.lengths)[users]
    positions = np.arange(len(holdout.targets)) + np.repeat(ends - holdout.offsets[:-1], n_targets)
    n_other = int((visible.items[positions] != holdout.targets).sum())
    _raise_if(n_other, f"{name} targets must be the events after the visible history", f"{n_other} other items")
    if visible.ordered:
        last_times = visible.times[ends - 1]
        n_earlier = int((holdout.target_times < np.repeat(last_times, n_targets)).sum())
        _raise_if(
            n_earlier,
            f"{name} targets must not be earlier than the visible history",
            f"{n_earlier} targets with an earlier time",
        )


def _n_different_events(train: Histories, visible: Histories) -> int:
    """Count training events that differ from the event at the same position; 0 if training histories are prefixes."""
    if train.items is visible.items and train.offsets is visible.offsets:
        return 0
    positions = train.positions()
    return int((train.items[positions] != visible.items[np.minimum(positions, len(visible.items) - 1)]).sum())


def _raise_if(count: int, rule: str, violation: str, *, fix: str = "rebuild the split from the log") -> None:
    if count:
        raise LeakageError(f"{rule}, got {violation}; {fix}")
