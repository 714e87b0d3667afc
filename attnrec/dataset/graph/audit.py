"""Checks that a graph contains training events only, see `split_audit.audit_split`."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset.graph.compressed import check_rows
from attnrec.dataset.graph.edges import Edges, user_item_edges
from attnrec.dataset.graph.transitions import Transitions, item_transitions
from attnrec.dataset.histories import Histories
from attnrec.dataset.vocabulary import Vocabulary

Rows = NDArray[np.int64]
Finding = tuple[int, str, str]
"""Number of violations of a rule (0 if there is none), the rule, and a description of the violations."""


def edge_findings(train: Histories, edges: Edges | tuple[Rows, Rows], *, cutoff: int | None) -> Iterator[Finding]:
    """Compare user-item edges with the training events.

    Args:
        train: the training part.
        edges: a graph, or only its (users, items) rows, (n_edges,) each, duplicates allowed.
        cutoff: Unix seconds, see `Split`.

    Yields:
        One finding per rule.

    Raises:
        ValueError: if a row does not exist in the training part.
    """
    users, items = (edges.users, edges.items) if isinstance(edges, Edges) else edges
    check_rows(users, n_rows=train.n_users, name="users of edges")
    check_rows(items, n_rows=train.n_items + 1, name="items of edges", first=1)
    train_edges, n_item_rows = user_item_edges(train), train.n_items + 1
    train_keys = train_edges.users * n_item_rows + train_edges.items
    train_counts = _look_up_counts(users * n_item_rows + items, train_keys, train_edges.counts)

    def describe(edge: int) -> str:
        return f"user {_id(train.user_ids, users[edge])}, item {_id(train.item_ids, items[edge])}"

    yield _finding(train_counts == 0, "graph edges must be training events", "other edges", describe)
    if isinstance(edges, Edges):
        too_many = edges.counts > train_counts
        yield _finding(too_many, "graph edges must count training events only", "edges with a higher count", describe)
        yield _latest_finding(edges.latest, cutoff)


def transition_findings(train: Histories, transitions: Transitions, *, cutoff: int | None) -> Iterator[Finding]:
    """Compare item transitions with those of the training part with equal settings.

    Args:
        train: the training part.
        transitions: a graph over the same catalogue.
        cutoff: Unix seconds, see `Split`.

    Yields:
        One finding per rule.

    Raises:
        ValueError: if the graph is over another catalogue.
    """
    if transitions.n_sources != train.n_items + 1:
        raise ValueError(
            f"transitions must have the {train.n_items} items of the split, got {transitions.n_sources - 1} items; "
            "build them from split.train"
        )
    settings = {name: getattr(transitions, name) for name in ("reach", "directed", "self_loops", "session_gap_hours")}
    train_transitions = item_transitions(train, **settings)
    train_counts = _look_up_counts(_keys(transitions), _keys(train_transitions), train_transitions.counts)

    def describe(edge: int) -> str:
        ends = transitions.sources[edge], transitions.targets[edge]
        return " -> ".join(_id(train.item_ids, end) for end in ends)

    too_many = transitions.counts > train_counts
    yield _finding(train_counts == 0, "transitions must be between training events", "other edges", describe)
    yield _finding(too_many, "transitions must count training events only", "edges with a higher count", describe)
    yield _latest_finding(transitions.latest, cutoff)


def _finding(violates: NDArray[np.bool_], rule: str, violations: str, describe: Callable[[int], str]) -> Finding:
    """Return a finding about edges; `describe` names an edge by the ids of its nodes."""
    count = int(violates.sum())
    return count, rule, f"{count} {violations} (first: {describe(int(violates.argmax()))})" if count else ""


def _id(vocabulary: Vocabulary, row: np.integer[Any]) -> str:
    return repr(vocabulary.decode(np.array([row])).tolist()[0])


def _keys(transitions: Transitions) -> Rows:
    return transitions.targets * transitions.n_sources + transitions.sources


def _look_up_counts(keys: Rows, train_keys: Rows, counts: NDArray[Any]) -> NDArray[np.float32]:
    """Return the training count of each of `keys`, (n,), 0 if there is none; `train_keys` are ascending."""
    positions = np.searchsorted(train_keys, keys)
    exists = np.append(train_keys, -1)[positions] == keys
    return np.where(exists, np.append(counts, 0)[positions], 0)


def _latest_finding(latest: int | None, cutoff: int | None) -> Finding:
    if latest is None or cutoff is None or latest < cutoff:
        return 0, "", ""
    violation = f"an event at {_format_time(latest)}, while the cutoff is {_format_time(cutoff)}"
    return 1, "all events of a graph must be before the cutoff", violation


def _format_time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
