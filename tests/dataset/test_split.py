import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import (
    Histories,
    Holdout,
    LeakageError,
    audit_split,
    histories_from_frame,
    histories_from_parts,
    join_predefined,
    split_by_time,
    split_last,
    split_predefined,
    user_item_edges,
)

DAY = 86_400


def visible_items(histories: Histories) -> dict[str, str]:
    return {
        str(user): "".join(histories.item_ids.decode(histories.items_of(row)))
        for row, user in enumerate(histories.user_ids.ids)
    }


def targets_of(holdout: Holdout) -> dict[str, str]:
    letters = holdout.histories.item_ids.decode(holdout.targets)
    return {
        str(holdout.histories.user_ids.ids[user]): "".join(letters[holdout.offsets[i] : holdout.offsets[i + 1]])
        for i, user in enumerate(holdout.users)
    }


@pytest.fixture
def days() -> Histories:
    """A log of ten days; the numbers are the days of the events."""
    rows = [
        *[("ann", item, day) for item, day in zip("abcde", [0, 2, 5, 7, 9], strict=True)],
        *[("bob", item, day) for item, day in zip("ab", [0, 8], strict=True)],
        *[("cid", item, day) for item, day in zip("cd", [8, 9], strict=True)],
        *[("dan", item, day) for item, day in zip("ba", [1, 5], strict=True)],
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    return histories_from_frame(frame.assign(datetime=frame["datetime"] * DAY))


# --- leave one out


def test_the_last_event_is_test_and_the_second_last_validation(make_histories):
    split = split_last(make_histories({"ann": "abcde", "bob": "eda"}))
    assert visible_items(split.train) == {"ann": "abc", "bob": "e"}
    assert targets_of(split.validation) == {"ann": "d", "bob": "d"}
    assert visible_items(split.test.histories) == {"ann": "abcd", "bob": "ed"}
    assert targets_of(split.test) == {"ann": "e", "bob": "a"}
    assert split.test.target_times.tolist() == [4, 2]


def test_users_with_fewer_than_three_events_are_used_for_training_only(make_histories):
    split = split_last(make_histories({"ann": "ab", "bob": "abc", "cid": "a"}))
    assert visible_items(split.train) == {"ann": "ab", "bob": "a", "cid": "a"}
    assert targets_of(split.validation) == {"bob": "b"}
    assert targets_of(split.test) == {"bob": "c"}
    assert visible_items(split.test.histories) == {"ann": "ab", "bob": "ab", "cid": "a"}


def test_split_last_uses_visible_events_only(make_histories):
    split = split_last(make_histories({"ann": "abcde"}).up_to(np.array([4])))
    assert targets_of(split.test) == {"ann": "d"}


def test_movielens_counts_equal_those_of_the_paper(real_data, tmp_path):
    ratings = pd.read_parquet(real_data / "ml-1m" / "ratings.parquet", columns=["user_id", "item_id", "timestamp"])
    ratings = ratings.rename(columns={"timestamp": "datetime"}).sort_values(["user_id", "datetime"], kind="stable")
    ratings.to_parquet(tmp_path / "part.parquet", index=False)
    histories = histories_from_parts(
        [tmp_path / "part.parquet"], time_kind="datetime", content_hash="", min_item_events=5
    )
    assert (histories.n_events, histories.n_items, histories.n_users) == (999_611, 3_416, 6_040)
    split = split_last(histories)
    assert len(split.test.targets) == len(split.validation.targets) == 6_040
    audit_split(split)
    kept = ratings[ratings["item_id"].map(ratings["item_id"].value_counts()) >= 5]
    lasts = kept.groupby("user_id")["item_id"].last()
    assert histories.item_ids.decode(split.test.targets).tolist() == lasts.tolist()


# --- by time


def test_default_cutoff_is_relative_to_the_last_event(days):
    # the last event is at day 9: the test period starts one second after day 7, validation one second after day 5
    split = split_by_time(days, test_days=2, validation_days=2)
    assert split.cutoff == 9 * DAY + 1 - 4 * DAY
    assert visible_items(split.train) == {"ann": "abc", "bob": "a", "cid": "", "dan": "ba"}
    assert targets_of(split.validation) == {"ann": "d"}
    assert targets_of(split.test) == {"ann": "e", "bob": "b"}


def test_the_test_period_starts_at_the_cutoff(days):
    split = split_by_time(days, datetime(1970, 1, 1 + 7, tzinfo=UTC), validation_days=2)
    assert split.cutoff == 5 * DAY
    assert visible_items(split.train) == {"ann": "ab", "bob": "a", "cid": "", "dan": "b"}
    assert targets_of(split.validation) == {"ann": "c", "dan": "a"}
    assert visible_items(split.test.histories) == {"ann": "abc", "bob": "a", "cid": "", "dan": "ba"}
    assert targets_of(split.test) == {"ann": "de", "bob": "b"}


def test_users_without_events_before_the_cutoff_have_no_targets(days):
    assert "cid" not in targets_of(split_by_time(days, test_days=4, validation_days=2).test)


def test_a_cutoff_without_timezone_is_utc(days, monkeypatch):
    aware = split_by_time(days, datetime(1970, 1, 8, tzinfo=UTC), validation_days=2)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        naive = split_by_time(days, datetime(1970, 1, 8), validation_days=2)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert naive.cutoff == aware.cutoff


@pytest.mark.parametrize(
    ("cutoff", "period"),
    [(datetime(1971, 1, 1, tzinfo=UTC), "validation"), (datetime(1970, 1, 2, tzinfo=UTC), "validation")],
)
def test_a_period_without_targets_is_refused(days, cutoff, period):
    with pytest.raises(ValueError, match=f"the {period} period must contain events"):
        split_by_time(days, cutoff, validation_days=2)


def test_split_by_time_refuses_unordered_sets():
    unordered = histories_from_frame(pd.DataFrame({"user_id": list("aab"), "item_id": list("xyz")}))
    with pytest.raises(ValueError, match="needs timestamps, got unordered sets; use split_last"):
        split_by_time(unordered)


# --- predefined


def test_join_predefined_appends_the_test_log(make_histories):
    joined, n_test = join_predefined(
        make_histories({"ann": "ab", "bob": "c"}), make_histories({"ann": "dc", "eve": "a"})
    )
    assert visible_items(joined) == {"ann": "abdc", "bob": "c", "eve": "a"}
    assert n_test.tolist() == [2, 0, 1]
    assert joined.item_ids.ids.tolist() == list("abcd")


def test_the_last_tenth_of_predefined_training_events_is_validation(make_histories):
    joined, n_test = join_predefined(
        make_histories({"ann": "abcdefghijklmnopqrst", "bob": "abc"}), make_histories({"ann": "ca", "bob": "d"})
    )
    split = split_predefined(joined, n_test)
    assert visible_items(split.train) == {"ann": "abcdefghijklmnopqr", "bob": "abc"}
    assert targets_of(split.validation) == {"ann": "st"}
    assert targets_of(split.test) == {"ann": "ca", "bob": "d"}
    assert visible_items(split.test.histories) == {"ann": "abcdefghijklmnopqrst", "bob": "abc"}


def test_a_predefined_split_of_unordered_sets_passes_the_audit():
    train = histories_from_frame(pd.DataFrame({"user_id": ["ann"] * 20, "item_id": list("abcdefghijklmnopqrst")}))
    test = histories_from_frame(pd.DataFrame({"user_id": ["ann"], "item_id": ["z"]}))
    split = split_predefined(*join_predefined(train, test))
    assert len(split.validation.targets) == 2
    audit_split(split)


def test_users_that_are_only_in_the_test_log_have_no_targets(make_histories):
    joined, n_test = join_predefined(make_histories({"ann": "ab"}), make_histories({"ann": "b", "eve": "a"}))
    assert targets_of(split_predefined(joined, n_test).test) == {"ann": "b"}


def test_unordered_training_events_are_shuffled_per_user():
    train = histories_from_frame(pd.DataFrame({"user_id": ["ann"] * 20, "item_id": list("abcdefghijklmnopqrst")}))
    test = histories_from_frame(pd.DataFrame({"user_id": ["ann"], "item_id": ["z"]}))
    first, again, other = (visible_items(join_predefined(train, test, seed=seed)[0])["ann"] for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first[:-1]) == list("abcdefghijklmnopqrst")
    assert first[:-1] != "abcdefghijklmnopqrst"
    assert first[-1] == "z"


# --- holdouts


def test_select_returns_the_targets_of_some_users(days):
    test = split_by_time(days, datetime(1970, 1, 8, tzinfo=UTC), validation_days=2).test
    assert targets_of(test.select(np.array([1]))) == {"bob": "b"}
    assert targets_of(test.select(np.array([1, 0]))) == {"bob": "b", "ann": "de"}
    assert test.select(np.array([1, 0])).target_times.tolist() == [8 * DAY, 7 * DAY, 9 * DAY]
    assert targets_of(test.select(np.array([], dtype=np.int64))) == {}


# --- the audit


@pytest.fixture
def loo(make_histories):
    return split_last(make_histories({"ann": "abcde", "bob": "eda", "cid": "ab"}))


def test_correct_splits_pass_the_audit(days, loo):
    audit_split(loo)
    audit_split(split_by_time(days, test_days=2, validation_days=2))
    edges = user_item_edges(loo.train)
    audit_split(loo, edges=(edges.users, edges.items))


def test_training_events_after_the_cutoff_are_a_leak(days):
    split = split_by_time(days, test_days=2, validation_days=2)
    leaking = replace(split, train=split.test.histories)
    with pytest.raises(LeakageError, match="training events must be before the cutoff, got 1 later"):
        audit_split(leaking)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_training_on_a_target_is_a_leak(loo, part):
    visible = getattr(loo, part).histories
    with pytest.raises(LeakageError, match="must not be longer than the visible histories"):
        audit_split(replace(loo, train=visible.up_to(visible.lengths + np.array([1, 0, 0]))))


def test_training_events_that_differ_from_the_log_are_a_leak(loo):
    changed = loo.train.items.copy()
    changed[1] = 5
    with pytest.raises(LeakageError, match="prefixes of the visible histories of the validation part, got 1 different"):
        audit_split(replace(loo, train=replace(loo.train, items=changed)))


def test_targets_inside_the_visible_history_are_a_leak(loo):
    full = loo.test.histories.up_to(np.diff(loo.test.histories.offsets))
    with pytest.raises(LeakageError, match="test targets must come after the visible history, got 2 users"):
        audit_split(replace(loo, test=replace(loo.test, histories=full)))


def test_a_target_that_is_the_last_visible_event_is_a_leak(loo):
    # each user has one more stored event, but the target is the last visible one
    visible = loo.test.histories
    last = visible.offsets[loo.test.users] + visible.lengths[loo.test.users] - 1
    leaking = replace(loo.test, targets=visible.items[last].astype(np.int64), target_times=visible.times[last])
    with pytest.raises(
        LeakageError, match="test targets must be the events after the visible history, got 2 other items"
    ):
        audit_split(replace(loo, test=leaking))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_targets_earlier_than_the_visible_history_are_a_leak(loo, part):
    holdout = getattr(loo, part)
    earlier = replace(holdout, target_times=holdout.target_times - 2)
    with pytest.raises(
        LeakageError, match=f"{part} targets must not be earlier than the visible history, got 2 targets"
    ):
        audit_split(replace(loo, **{part: earlier}))


def test_a_target_at_the_time_of_the_last_visible_event_is_not_a_leak():
    frame = pd.DataFrame({"user_id": "ann", "item_id": list("abc"), "datetime": [7, 7, 7]})
    audit_split(split_last(histories_from_frame(frame)))


def test_a_graph_edge_that_is_not_a_training_event_is_a_leak(loo):
    edges = user_item_edges(loo.test.histories)
    # d of ann and d of bob are visible in the test part, but not in training
    with pytest.raises(LeakageError, match="graph edges must be training events, got 2 other edges"):
        audit_split(loo, edges=(edges.users, edges.items))


def test_an_edge_of_a_user_and_an_item_without_interaction_is_a_leak(loo):
    edges = user_item_edges(loo.train)
    with pytest.raises(LeakageError, match="got 1 other edges"):
        audit_split(loo, edges=(np.append(edges.users, 2), np.append(edges.items, 5)))


def test_split_by_time_refuses_logs_without_timestamps(tiny_log):
    histories = replace(histories_from_frame(tiny_log), time_kind="order")
    with pytest.raises(ValueError, match="needs timestamps, got the order of events only"):
        split_by_time(histories)
