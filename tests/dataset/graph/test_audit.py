from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import (
    LeakageError,
    audit_split,
    histories_from_frame,
    item_transitions,
    split_by_time,
    split_last,
    user_item_edges,
)

DAY = 86_400


def full_log(split):
    """The whole log, without hidden events."""
    log = split.test.histories
    return log.up_to(np.diff(log.offsets))


@pytest.fixture
def loo(make_histories):
    """Training histories: ann abc, bob e, cid ab."""
    return split_last(make_histories({"ann": "abcde", "bob": "eda", "cid": "ab"}))


@pytest.fixture
def repeats(make_histories):
    """Training history: ann abab. The targets a and b add no new edges, only counts."""
    return split_last(make_histories({"ann": "ababab"}))


@pytest.fixture
def days():
    """Training events are before day 5; the numbers are the days of the events."""
    rows = [
        *[("ann", item, day) for item, day in zip("ababb", [0, 1, 2, 5.5, 9], strict=True)],
        *[("bob", item, day) for item, day in zip("acb", [0, 3, 8], strict=True)],
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    histories = histories_from_frame(frame.assign(datetime=(frame["datetime"] * DAY).astype(int)))
    return split_by_time(histories, datetime(1970, 1, 1 + 7, tzinfo=UTC), validation_days=2)


SETTINGS = [
    {},
    {"reach": 3},
    {"directed": False},
    {"self_loops": True, "reach": 2, "directed": False},
    {"half_life_days": 1, "session_gap_hours": 96},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["loo", "repeats", "days"])
def test_graphs_of_the_training_part_pass_the_audit(name, settings, request):
    split = request.getfixturevalue(name)
    graph = item_transitions(split.train, **settings)
    audit_split(split, edges=user_item_edges(split.train), transitions=graph)
    assert len(graph)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["loo", "repeats", "days"])
def test_graphs_of_the_whole_log_are_a_leak(name, settings, request):
    split = request.getfixturevalue(name)
    with pytest.raises(LeakageError, match=r"build the graph from split\.train"):
        audit_split(split, edges=user_item_edges(full_log(split)))
    with pytest.raises(LeakageError, match=r"build the graph from split\.train"):
        audit_split(split, transitions=item_transitions(full_log(split), **settings))


def test_a_graph_of_the_visible_test_histories_is_a_leak(loo):
    visible = loo.test.histories  # ann: abcd, bob: ed, cid: ab
    with pytest.raises(LeakageError, match=r"got 2 other edges \(first: user 'ann', item 'd'\)"):
        audit_split(loo, edges=user_item_edges(visible))
    message = r"between training events, got 2 other edges \(first: 'c' -> 'd'\)"
    with pytest.raises(LeakageError, match=message):
        audit_split(loo, transitions=item_transitions(visible))


def test_an_edge_that_also_counts_a_test_event_is_a_leak(repeats):
    with pytest.raises(LeakageError, match=r"got 2 edges with a higher count \(first: user 'ann', item 'a'\)"):
        audit_split(repeats, edges=user_item_edges(full_log(repeats)))
    visible = repeats.test.histories  # ababa: b -> a twice
    with pytest.raises(LeakageError, match=r"got 1 edges with a higher count \(first: 'b' -> 'a'\)"):
        audit_split(repeats, transitions=item_transitions(visible))


def test_edges_without_counts_are_compared_by_pair_only(repeats):
    edges = user_item_edges(full_log(repeats))
    audit_split(repeats, edges=(edges.users, edges.items))  # without counts, higher counts cannot be detected
    with pytest.raises(LeakageError, match="got 1 other edges"):
        audit_split(split_last(full_log(repeats).up_to(np.array([3]))), edges=(edges.users, edges.items))


def test_an_event_after_the_cutoff_is_a_leak_even_for_a_pair_of_the_training_part(days):
    edges = user_item_edges(days.train)
    late = replace(edges, last_times=np.where(edges.items == 2, 9 * DAY, edges.last_times))
    message = (
        "all events of a graph must be before the cutoff, got an event at 1970-01-10 00:00:00, "
        "while the cutoff is 1970-01-06 00:00:00; build"
    )
    with pytest.raises(LeakageError, match=message):
        audit_split(days, edges=late)
    with pytest.raises(LeakageError, match=message):
        audit_split(days, transitions=replace(item_transitions(days.train), latest=9 * DAY))
    with pytest.raises(LeakageError, match="1970-01-06 00:00:00, while the cutoff"):
        audit_split(days, transitions=replace(item_transitions(days.train), latest=5 * DAY))
    audit_split(days, transitions=replace(item_transitions(days.train), latest=5 * DAY - 1))


def test_a_graph_of_a_part_of_the_training_events_passes(days):
    earlier = days.train.up_to(np.minimum(days.train.lengths, 2))
    assert 0 < earlier.n_events < days.train.n_events
    audit_split(days, edges=user_item_edges(earlier), transitions=item_transitions(earlier))


def test_transitions_built_with_wider_settings_than_stated_are_a_leak(loo, days):
    graph = replace(item_transitions(loo.train, reach=2), reach=1)
    with pytest.raises(LeakageError, match=r"got 1 other edges \(first: 'a' -> 'c'\)"):
        audit_split(loo, transitions=graph)
    # c of bob is three days after his a
    graph = replace(item_transitions(days.train), session_gap_hours=48)
    with pytest.raises(LeakageError, match=r"got 1 other edges \(first: 'a' -> 'c'\)"):
        audit_split(days, transitions=graph)


def test_an_empty_training_part_allows_only_empty_graphs(make_histories):
    split = split_last(make_histories({"ann": "abc"}))
    empty = replace(split, train=split.train.up_to(np.array([0])))
    audit_split(empty, edges=user_item_edges(empty.train), transitions=item_transitions(empty.train))
    with pytest.raises(LeakageError, match=r"got 1 other edges \(first: user 'ann', item 'a'\)"):
        audit_split(empty, edges=user_item_edges(split.train))
    with pytest.raises(LeakageError, match=r"got 1 other edges \(first: 'a' -> 'b'\)"):
        audit_split(empty, transitions=item_transitions(split.validation.histories.up_to(np.array([2]))))


def test_edges_with_rows_outside_the_split_are_refused(loo):
    users, items = np.array([0, 3]), np.array([1, 1])
    with pytest.raises(ValueError, match=r"users of edges must be rows from 0 to 2, got 1 other values \(first: 3\)"):
        audit_split(loo, edges=(users, items))
    for row in (0, 6, -1):  # 0 is padding
        with pytest.raises(ValueError, match=rf"items of edges must be rows from 1 to 5, got 1 .*first: {row}\)"):
            audit_split(loo, edges=(np.array([0]), np.array([row])))


def test_transitions_over_another_catalogue_are_refused(loo, make_histories):
    graph = item_transitions(make_histories({"ann": "abcdef"}))
    with pytest.raises(ValueError, match=r"must have the 5 items of the split, got 6 items; build"):
        audit_split(loo, transitions=graph)
