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


def whole(split):
    """Everything the log has."""
    log = split.test.histories
    return log.up_to(np.diff(log.offsets))


@pytest.fixture
def loo(make_histories):
    """Training has ann: abc, bob: e, cid: ab."""
    return split_last(make_histories({"ann": "abcde", "bob": "eda", "cid": "ab"}))


@pytest.fixture
def again(make_histories):
    """Training has ann: abab; what is asked, a and then b again, makes no edge that training does not make."""
    return split_last(make_histories({"ann": "ababab"}))


@pytest.fixture
def days():
    """Training is before day 5; the number is the day of the event."""
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
    {"loops": True, "reach": 2, "directed": False},
    {"half_life_days": 1, "session_gap_hours": 96},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["loo", "again", "days"])
def test_graphs_of_the_training_part_pass(name, settings, request):
    split = request.getfixturevalue(name)
    graph = item_transitions(split.train, **settings)
    audit_split(split, edges=user_item_edges(split.train), transitions=graph)
    assert len(graph)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["loo", "again", "days"])
def test_graphs_of_the_whole_log_are_a_leak(name, settings, request):
    split = request.getfixturevalue(name)
    with pytest.raises(LeakageError, match=r"build the graph from split\.train"):
        audit_split(split, edges=user_item_edges(whole(split)))
    with pytest.raises(LeakageError, match=r"build the graph from split\.train"):
        audit_split(split, transitions=item_transitions(whole(split), **settings))


def test_a_graph_of_what_the_test_questions_show_is_a_leak(loo):
    shown = loo.test.histories  # ann: abcd, bob: ed, cid: ab
    with pytest.raises(LeakageError, match=r"got 2 edges that are not \(first: user 'ann', item 'd'\)"):
        audit_split(loo, edges=user_item_edges(shown))
    message = r"made of training events, got 2 edges that are not \(first: 'c' -> 'd'\)"
    with pytest.raises(LeakageError, match=message):
        audit_split(loo, transitions=item_transitions(shown))


def test_an_edge_that_counts_a_test_event_beside_training_events_is_a_leak(again):
    with pytest.raises(LeakageError, match=r"got 2 edges that count more \(first: user 'ann', item 'a'\)"):
        audit_split(again, edges=user_item_edges(whole(again)))
    shown = again.test.histories  # ababa: b -> a twice
    with pytest.raises(LeakageError, match=r"got 1 edges that count more \(first: 'b' -> 'a'\)"):
        audit_split(again, transitions=item_transitions(shown))


def test_rows_of_edges_alone_are_held_to_the_training_pairs(again):
    edges = user_item_edges(whole(again))
    audit_split(again, edges=(edges.users, edges.items))  # who gives no counts is not asked for them
    with pytest.raises(LeakageError, match="got 1 edges"):
        audit_split(split_last(whole(again).up_to(np.array([3]))), edges=(edges.users, edges.items))


def test_a_graph_with_an_event_after_the_cutoff_is_a_leak_even_if_the_pair_was_there_before(days):
    edges = user_item_edges(days.train)
    late = replace(edges, last_times=np.where(edges.items == 2, 9 * DAY, edges.last_times))
    message = "end before the cutoff, got an event of 1970-01-10 00:00:00, the cutoff being 1970-01-06 00:00:00; build"
    with pytest.raises(LeakageError, match=message):
        audit_split(days, edges=late)
    with pytest.raises(LeakageError, match=message):
        audit_split(days, transitions=replace(item_transitions(days.train), latest=9 * DAY))
    with pytest.raises(LeakageError, match="1970-01-06 00:00:00, the cutoff"):
        audit_split(days, transitions=replace(item_transitions(days.train), latest=5 * DAY))
    audit_split(days, transitions=replace(item_transitions(days.train), latest=5 * DAY - 1))


def test_a_graph_of_fewer_events_than_training_has_passes(days):
    earlier = days.train.up_to(np.minimum(days.train.lengths, 2))
    assert 0 < earlier.n_events < days.train.n_events
    audit_split(days, edges=user_item_edges(earlier), transitions=item_transitions(earlier))


def test_transitions_that_say_less_than_they_were_made_with_are_a_leak(loo, days):
    graph = replace(item_transitions(loo.train, reach=2), reach=1)
    with pytest.raises(LeakageError, match=r"got 1 edges that are not \(first: 'a' -> 'c'\)"):
        audit_split(loo, transitions=graph)
    # bob's c came three days after his a
    graph = replace(item_transitions(days.train), session_gap_hours=48)
    with pytest.raises(LeakageError, match=r"got 1 edges that are not \(first: 'a' -> 'c'\)"):
        audit_split(days, transitions=graph)


def test_an_empty_graph_passes_and_any_edge_beside_an_empty_training_part_does_not(make_histories):
    split = split_last(make_histories({"ann": "abc"}))
    empty = replace(split, train=split.train.up_to(np.array([0])))
    audit_split(empty, edges=user_item_edges(empty.train), transitions=item_transitions(empty.train))
    with pytest.raises(LeakageError, match=r"got 1 edges that are not \(first: user 'ann', item 'a'\)"):
        audit_split(empty, edges=user_item_edges(split.train))
    with pytest.raises(LeakageError, match=r"got 1 edges that are not \(first: 'a' -> 'b'\)"):
        audit_split(empty, transitions=item_transitions(split.validation.histories.up_to(np.array([2]))))


def test_an_edge_with_a_row_that_the_split_does_not_have_is_refused(loo):
    users, items = np.array([0, 3]), np.array([1, 1])
    with pytest.raises(ValueError, match=r"users of edges must be rows from 0 to 2, got 1 that are not \(first: 3\)"):
        audit_split(loo, edges=(users, items))
    for row in (0, 6, -1):  # 0 is padding
        with pytest.raises(ValueError, match=rf"items of edges must be rows from 1 to 5, got 1 .*first: {row}\)"):
            audit_split(loo, edges=(np.array([0]), np.array([row])))


def test_transitions_over_another_catalogue_are_refused(loo, make_histories):
    graph = item_transitions(make_histories({"ann": "abcdef"}))
    with pytest.raises(ValueError, match=r"between the 5 items of the split, got 6 items; build"):
        audit_split(loo, transitions=graph)
