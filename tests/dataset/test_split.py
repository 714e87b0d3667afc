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
    split_predefined,
    split_last,
    user_item_edges,
)

DAY = 86_400


def shown(histories: Histories) -> dict[str, str]:
    return {
        str(user): "".join(histories.item_ids.decode(histories.items_of(row)))
        for row, user in enumerate(histories.user_ids.ids)
    }


def answers(holdout: Holdout) -> dict[str, str]:
    letters = holdout.histories.item_ids.decode(holdout.targets)
    return {
        str(holdout.histories.user_ids.ids[user]): "".join(letters[holdout.offsets[i] : holdout.offsets[i + 1]])
        for i, user in enumerate(holdout.users)
    }


@pytest.fixture
def days() -> Histories:
    """A log over ten days; the number is the day of the event."""
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
    assert shown(split.train) == {"ann": "abc", "bob": "e"}
    assert answers(split.validation) == {"ann": "d", "bob": "d"}
    assert shown(split.test.histories) == {"ann": "abcd", "bob": "ed"}
    assert answers(split.test) == {"ann": "e", "bob": "a"}
    assert split.test.target_times.tolist() == [4, 2]


def test_users_with_fewer_than_three_events_are_not_asked_but_trained_on(make_histories):
    split = split_last(make_histories({"ann": "ab", "bob": "abc", "cid": "a"}))
    assert shown(split.train) == {"ann": "ab", "bob": "a", "cid": "a"}
    assert answers(split.validation) == {"bob": "b"}
    assert answers(split.test) == {"bob": "c"}
    assert shown(split.test.histories) == {"ann": "ab", "bob": "ab", "cid": "a"}


def test_a_view_is_split_as_if_the_rest_were_not_there(make_histories):
    split = split_last(make_histories({"ann": "abcde"}).up_to(np.array([4])))
    assert answers(split.test) == {"ann": "d"}


def test_the_papers_protocol_on_movielens_has_the_papers_counts(real_data, tmp_path):
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


def test_the_default_cut_lies_before_the_last_events(days):
    # the last event is at day 9: test after day 7 (later than its first second), validation from day 5
    split = split_by_time(days, test_days=2, validation_days=2)
    assert split.cutoff == 9 * DAY + 1 - 4 * DAY
    assert shown(split.train) == {"ann": "abc", "bob": "a", "cid": "", "dan": "ba"}
    assert answers(split.validation) == {"ann": "d"}
    assert answers(split.test) == {"ann": "e", "bob": "b"}


def test_the_cutoff_is_the_first_second_of_the_test_part(days):
    split = split_by_time(days, datetime(1970, 1, 1 + 7, tzinfo=UTC), validation_days=2)
    assert split.cutoff == 5 * DAY
    assert shown(split.train) == {"ann": "ab", "bob": "a", "cid": "", "dan": "b"}
    assert answers(split.validation) == {"ann": "c", "dan": "a"}
    assert shown(split.test.histories) == {"ann": "abc", "bob": "a", "cid": "", "dan": "ba"}
    assert answers(split.test) == {"ann": "de", "bob": "b"}


def test_users_who_were_never_seen_before_the_cut_are_not_asked(days):
    assert "cid" not in answers(split_by_time(days, test_days=4, validation_days=2).test)


def test_a_cutoff_without_a_zone_is_utc(days, monkeypatch):
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
    ("cutoff", "part"),
    [(datetime(1971, 1, 1, tzinfo=UTC), "validation"), (datetime(1970, 1, 2, tzinfo=UTC), "validation")],
)
def test_a_part_in_which_nobody_can_be_asked_is_refused(days, cutoff, part):
    with pytest.raises(ValueError, match=f"the {part} part"):
        split_by_time(days, cutoff, validation_days=2)


def test_an_unordered_set_has_no_time_to_split_by():
    unordered = histories_from_frame(pd.DataFrame({"user_id": list("aab"), "item_id": list("xyz")}))
    with pytest.raises(ValueError, match="needs times"):
        split_by_time(unordered)


# --- given


def test_a_given_test_log_comes_behind_its_train_log(make_histories):
    joined, n_test = join_predefined(make_histories({"ann": "ab", "bob": "c"}), make_histories({"ann": "dc", "eve": "a"}))
    assert shown(joined) == {"ann": "abdc", "bob": "c", "eve": "a"}
    assert n_test.tolist() == [2, 0, 1]
    assert joined.item_ids.ids.tolist() == list("abcd")


def test_the_last_tenth_of_given_train_events_is_validation(make_histories):
    joined, n_test = join_predefined(
        make_histories({"ann": "abcdefghijklmnopqrst", "bob": "abc"}), make_histories({"ann": "ca", "bob": "d"})
    )
    split = split_predefined(joined, n_test)
    assert shown(split.train) == {"ann": "abcdefghijklmnopqr", "bob": "abc"}
    assert answers(split.validation) == {"ann": "st"}
    assert answers(split.test) == {"ann": "ca", "bob": "d"}
    assert shown(split.test.histories) == {"ann": "abcdefghijklmnopqrst", "bob": "abc"}


def test_a_given_split_of_unordered_sets_passes_the_audit():
    train = histories_from_frame(pd.DataFrame({"user_id": ["ann"] * 20, "item_id": list("abcdefghijklmnopqrst")}))
    test = histories_from_frame(pd.DataFrame({"user_id": ["ann"], "item_id": ["z"]}))
    split = split_predefined(*join_predefined(train, test))
    assert len(split.validation.targets) == 2
    audit_split(split)


def test_users_who_are_only_in_the_given_test_log_are_not_asked(make_histories):
    joined, n_test = join_predefined(make_histories({"ann": "ab"}), make_histories({"ann": "b", "eve": "a"}))
    assert answers(split_predefined(joined, n_test).test) == {"ann": "b"}


def test_unordered_train_events_are_shuffled_once_within_their_user():
    train = histories_from_frame(pd.DataFrame({"user_id": ["ann"] * 20, "item_id": list("abcdefghijklmnopqrst")}))
    test = histories_from_frame(pd.DataFrame({"user_id": ["ann"], "item_id": ["z"]}))
    first, again, other = (shown(join_predefined(train, test, seed=seed)[0])["ann"] for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first[:-1]) == list("abcdefghijklmnopqrst")
    assert first[:-1] != "abcdefghijklmnopqrst"
    assert first[-1] == "z"


# --- holdouts


def test_a_holdout_can_be_narrowed_to_some_of_its_questions(days):
    test = split_by_time(days, datetime(1970, 1, 8, tzinfo=UTC), validation_days=2).test
    assert answers(test.select(np.array([1]))) == {"bob": "b"}
    assert answers(test.select(np.array([1, 0]))) == {"bob": "b", "ann": "de"}
    assert test.select(np.array([1, 0])).target_times.tolist() == [8 * DAY, 7 * DAY, 9 * DAY]
    assert answers(test.select(np.array([], dtype=np.int64))) == {}


# --- the audit


@pytest.fixture
def loo(make_histories):
    return split_last(make_histories({"ann": "abcde", "bob": "eda", "cid": "ab"}))


def test_honest_splits_pass_the_audit(days, loo):
    audit_split(loo)
    audit_split(split_by_time(days, test_days=2, validation_days=2))
    edges = user_item_edges(loo.train)
    audit_split(loo, edges=(edges.users, edges.items))


def test_training_events_after_the_cutoff_are_a_leak(days):
    split = split_by_time(days, test_days=2, validation_days=2)
    late = replace(split, train=split.test.histories)
    with pytest.raises(LeakageError, match="end before the cutoff, got 1 later"):
        audit_split(late)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_training_on_a_target_is_a_leak(loo, part):
    asked = getattr(loo, part).histories
    with pytest.raises(LeakageError, match="no more than the"):
        audit_split(replace(loo, train=asked.up_to(asked.lengths + np.array([1, 0, 0]))))


def test_training_on_other_events_than_the_log_has_is_a_leak(loo):
    changed = loo.train.items.copy()
    changed[1] = 5
    with pytest.raises(LeakageError, match="start of what the validation questions show, got 1 other"):
        audit_split(replace(loo, train=replace(loo.train, items=changed)))


def test_answers_that_the_visible_history_shows_are_a_leak(loo):
    everything = loo.test.histories.up_to(np.diff(loo.test.histories.offsets))
    with pytest.raises(LeakageError, match="test answers must lie behind the visible history, got 2 users"):
        audit_split(replace(loo, test=replace(loo.test, histories=everything)))


def test_asking_for_the_last_event_shown_is_a_leak(loo):
    # one event of each user still lies behind what is shown, but the answer is the last one that is shown
    seen = loo.test.histories
    last = seen.offsets[loo.test.users] + seen.lengths[loo.test.users] - 1
    asked = replace(loo.test, targets=seen.items[last].astype(np.int64), target_times=seen.times[last])
    with pytest.raises(LeakageError, match="test"):
        audit_split(replace(loo, test=asked))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_answers_older_than_what_is_seen_are_a_leak(loo, part):
    holdout = getattr(loo, part)
    old = replace(holdout, target_times=holdout.target_times - 2)
    with pytest.raises(LeakageError, match=f"{part} answers must not be older than what is seen, got 2 events"):
        audit_split(replace(loo, **{part: old}))


def test_answers_at_the_same_time_as_the_last_event_seen_are_no_leak():
    frame = pd.DataFrame({"user_id": "ann", "item_id": list("abc"), "datetime": [7, 7, 7]})
    audit_split(split_last(histories_from_frame(frame)))


def test_a_graph_edge_that_is_no_training_event_is_a_leak(loo):
    edges = user_item_edges(loo.test.histories)
    # ann's d and bob's d are shown to the test questions, but not to training
    with pytest.raises(LeakageError, match="graph edges must be training events, got 2 edges"):
        audit_split(loo, edges=(edges.users, edges.items))


def test_an_edge_between_strangers_is_a_leak(loo):
    edges = user_item_edges(loo.train)
    with pytest.raises(LeakageError, match="got 1 edges"):
        audit_split(loo, edges=(np.append(edges.users, 2), np.append(edges.items, 5)))


def test_a_log_with_only_the_order_of_arrival_is_not_split_by_time(tiny_log):
    histories = replace(histories_from_frame(tiny_log), time_kind="order")
    with pytest.raises(ValueError, match="needs times, got the order of arrival only"):
        split_by_time(histories)
