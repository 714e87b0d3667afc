from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import Transitions, histories_from_frame, item_transitions
from attnrec.dataset.graph import grouping

HOUR, DAY = 3_600, 86_400
A, B, C, D = 1, 2, 3, 4


def weights(graph: Transitions) -> dict[tuple[int, int], float]:
    """Return (source, target) -> weight."""
    edges = zip(graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist(), strict=True)
    return {(source, target): weight for source, target, weight in edges}


@pytest.fixture
def timed():
    """Build histories from {user: [(item, time in seconds), ...]}."""

    def make(world):
        rows = [(user, item, time) for user, events in world.items() for item, time in events]
        return histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))

    return make


def test_edges_connect_consecutive_items_of_one_user(make_histories):
    graph = item_transitions(make_histories({"ann": "abcb", "bob": "ab", "cid": "d"}))
    assert weights(graph) == {(A, B): 2, (C, B): 1, (B, C): 1}
    assert graph.counts.tolist() == [2, 1, 1]
    assert graph.targets.tolist() == [B, B, C]
    assert graph.offsets.tolist() == [0, 0, 0, 2, 3, 3]  # no edges into row 0, a and d
    assert graph.n_sources == graph.n_targets == 5


def test_events_outside_a_view_are_not_used(make_histories):
    log = make_histories({"ann": "abcd", "bob": "ba", "cid": "cd"})
    graph = item_transitions(log.up_to(np.array([2, 1, 0])))
    assert weights(graph) == {(A, B): 1}
    assert graph.latest == 1


def test_pairs_are_weighted_by_one_over_their_distance(make_histories):
    graph = item_transitions(make_histories({"ann": "abcd", "bob": "ac"}), reach=3)
    assert weights(graph) == {
        (A, B): 1,
        (A, C): pytest.approx(1 / 2 + 1),
        (A, D): pytest.approx(1 / 3),
        (B, C): 1,
        (B, D): 1 / 2,
        (C, D): 1,
    }
    assert dict(zip(weights(graph), graph.counts.tolist(), strict=True))[A, C] == 2


def test_a_reach_beyond_every_history_adds_no_edges(make_histories):
    log = make_histories({"ann": "abc", "bob": "ba"})
    assert weights(item_transitions(log, reach=50)) == weights(item_transitions(log, reach=2))


def test_self_loops_are_excluded_by_default(make_histories):
    log = make_histories({"ann": "aab", "bob": "aa"})
    assert weights(item_transitions(log)) == {(A, B): 1}
    assert weights(item_transitions(log, self_loops=True)) == {(A, A): 2, (A, B): 1}
    assert weights(item_transitions(make_histories({"ann": "aba"}), reach=2)) == {(A, B): 1, (B, A): 1}


def test_undirected_edges_have_the_sums_of_both_directions(make_histories):
    log = make_histories({"ann": "abab", "bob": "bc", "cid": "cc"})
    graph = item_transitions(log, directed=False, self_loops=True)
    # a -> b twice and b -> a once; a self-loop is its own reverse and is counted once
    assert weights(graph) == {(A, B): 3, (B, A): 3, (B, C): 1, (C, B): 1, (C, C): 1}
    assert list(weights(graph)) == [(B, A), (A, B), (C, B), (B, C), (C, C)]  # by target, then source
    assert graph.counts.tolist() == [3, 3, 1, 1, 1]
    directed = item_transitions(log, reach=2)
    both, one = weights(item_transitions(log, reach=2, directed=False)), weights(directed)
    assert both == {
        pair: pytest.approx(one.get(pair, 0) + one.get(pair[::-1], 0)) for pair in {*one, *((t, s) for s, t in one)}
    }


def test_gap_seconds_is_the_mean_over_the_pairs_of_an_edge(timed):
    graph = item_transitions(timed({"ann": [("a", 0), ("b", 10)], "bob": [("a", 5), ("b", 35), ("c", 36)]}))
    assert graph.gap_seconds.tolist() == [(10 + 30) / 2, 1]
    assert graph.latest == 36


def test_gap_seconds_is_the_mean_over_all_distances(timed):
    graph = item_transitions(timed({"ann": [("a", 0), ("b", 10), ("a", 15), ("b", 16)]}), reach=3)
    pair = list(weights(graph)).index((A, B))
    assert graph.gap_seconds[pair] == pytest.approx((10 + 1 + 16) / 3)
    assert graph.weights[pair] == pytest.approx(1 + 1 + 1 / 3)


@pytest.mark.parametrize("block", [1, 10**6])
def test_latest_is_the_last_event_of_any_pair(timed, block, monkeypatch):
    monkeypatch.setattr(grouping, "BLOCK_EVENTS", block)  # ann and bob in two blocks or in one
    log = timed({"ann": [("a", 0), ("b", 10), ("b", 20)], "bob": [("c", 90)]})
    assert item_transitions(log).latest == 10  # b -> b is a self-loop, and c has no successor
    assert item_transitions(log, reach=2).latest == 20


def test_negative_gaps_count_as_0(make_histories):
    # a predefined test log may start before its training log ends
    log = replace(make_histories({"ann": "ab"}), times=np.array([10 * DAY, 3 * DAY]))
    graph = item_transitions(log, half_life_days=1)
    assert graph.gap_seconds.tolist() == [0]
    assert weights(graph) == {(A, B): 1}


def test_a_pair_has_half_its_weight_after_the_half_life(timed):
    log = timed({"ann": [("a", 0), ("b", 0), ("c", 3 * DAY)], "bob": [("a", 0), ("b", 6 * DAY)]})
    graph = item_transitions(log, half_life_days=3, reach=2)
    assert weights(graph) == {
        (A, B): pytest.approx(1 + 0.5**2),
        (A, C): pytest.approx(0.5 / 2),
        (B, C): pytest.approx(0.5),
    }
    assert graph.counts.tolist() == [2, 1, 1]


def test_a_fully_decayed_edge_keeps_a_positive_weight(timed):
    graph = item_transitions(timed({"ann": [("a", 0), ("b", 10_000 * DAY)]}), half_life_days=1)
    assert 0 < graph.weights[0] < 1e-30


def test_a_long_pause_ends_a_session(timed):
    log = timed({"ann": [("a", 0), ("b", 2 * HOUR), ("c", 3 * HOUR), ("d", 5 * HOUR + 1)], "bob": [("c", 0)]})
    assert weights(item_transitions(log, session_gap_hours=2)) == {(A, B): 1, (B, C): 1}
    # a and c are three hours apart, but no pause is longer than two hours
    assert weights(item_transitions(log, session_gap_hours=2, reach=3)) == {(A, B): 1, (B, C): 1, (A, C): 1 / 2}
    assert weights(item_transitions(log, session_gap_hours=1)) == {(B, C): 1}


def test_transitions_without_timestamps_have_no_gap_seconds(make_histories):
    log = replace(make_histories({"ann": "abc"}), time_kind="order")
    graph = item_transitions(log)
    assert weights(graph) == {(A, B): 1, (B, C): 1}
    assert graph.gap_seconds is graph.latest is None


@pytest.mark.parametrize("name", ["half_life_days", "session_gap_hours", "age_half_life_days"])
def test_settings_in_days_and_hours_need_timestamps(make_histories, name):
    log = replace(make_histories({"ann": "abc"}), time_kind="order")
    with pytest.raises(ValueError, match=f"{name} needs timestamps, got a log with the order of events only; omit"):
        item_transitions(log, **{name: 1.0})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["half_life_days", "session_gap_hours", "age_half_life_days"])
def test_settings_in_days_and_hours_must_be_above_0(make_histories, name, value):
    with pytest.raises(ValueError, match=f"{name} must be above 0 and finite, got {value}; use None"):
        item_transitions(make_histories({"ann": "abc"}), **{name: value})


def test_a_reach_of_0_is_refused(make_histories):
    with pytest.raises(ValueError, match="reach must be at least 1, got 0; reach=1"):
        item_transitions(make_histories({"ann": "abc"}), reach=0)


def test_unordered_sets_are_refused():
    log = histories_from_frame(pd.DataFrame({"user_id": ["ann", "ann"], "item_id": ["a", "b"]}))
    with pytest.raises(ValueError, match="needs ordered events, got unordered sets; use user_item_edges"):
        item_transitions(log)


@pytest.mark.parametrize("directed", [True, False])
@pytest.mark.parametrize("reach", [1, 3])
@pytest.mark.parametrize("world", [{"ann": "a"}, {"ann": "aaa"}, {"ann": "a", "bob": "b"}])
def test_a_log_without_pairs_gives_an_empty_graph(make_histories, world, directed, reach):
    log = make_histories(world)
    graph = item_transitions(log, directed=directed, reach=reach)
    assert len(graph) == 0
    assert graph.offsets.tolist() == [0] * (log.n_items + 2)
    assert graph.latest is None
    assert len(item_transitions(log.up_to(np.zeros(len(world), int)), reach=reach, self_loops=True)) == 0


def test_pairs_at_the_same_time_do_not_decay(timed):
    graph = item_transitions(timed({"ann": [("a", 7), ("b", 7)]}), half_life_days=1, session_gap_hours=1)
    assert weights(graph) == {(A, B): 1}
    assert graph.gap_seconds.tolist() == [0]


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_transitions_equal_a_count_in_plain_python(block, monkeypatch):
    monkeypatch.setattr(grouping, "BLOCK_EVENTS", block)
    random = np.random.default_rng(0)
    items, gaps = random.integers(1, 6, (20, 15)), random.integers(0, 2 * HOUR, (20, 15))
    log = histories_from_frame(
        pd.DataFrame(
            {
                "user_id": np.repeat(np.arange(20), 15),
                "item_id": items.ravel(),
                "datetime": np.cumsum(gaps, axis=1).ravel(),
            }
        )
    )
    expected: dict[tuple[int, int], float] = {}
    for row, steps in zip(items, gaps, strict=True):
        for i in range(15):
            for j in range(i + 1, min(i + 4, 15)):
                if row[i] != row[j] and max(steps[i + 1 : j + 1]) <= HOUR:
                    key = int(row[i]), int(row[j])
                    weight = 0.5 ** (sum(steps[i + 1 : j + 1]) / DAY) / (j - i)
                    expected[key] = expected.get(key, 0) + weight
    assert len(expected) == 20
    graph = item_transitions(log, reach=3, half_life_days=1, session_gap_hours=1)
    assert weights(graph) == pytest.approx(expected)


def test_recent_decays_with_the_age_of_the_pair(timed):
    # age: a -> b six days and zero days, b -> c and (at distance 2) a -> c three days
    log = timed({"ann": [("a", 0), ("b", 0), ("c", 3 * DAY)], "bob": [("a", 6 * DAY), ("b", 6 * DAY)]})
    graph = item_transitions(log, reach=2, age_half_life_days=3)
    recent = dict(zip(weights(graph), graph.columns["recent"].tolist(), strict=True))
    assert recent == pytest.approx({(A, B): 1 / 4 + 1, (B, C): 1 / 2, (A, C): 1 / 4})
    assert weights(graph) == {(A, B): 2, (B, C): 1, (A, C): 0.5}
    assert "recent" not in item_transitions(log, reach=2).columns


def test_age_is_relative_to_the_newest_visible_event(timed):
    log = timed({"ann": [("a", 0), ("b", 0), ("c", 9 * DAY)]}).up_to(np.array([2]))
    assert item_transitions(log, age_half_life_days=1).columns["recent"].tolist() == [1]
