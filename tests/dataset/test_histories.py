from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import Histories, Vocabulary, histories_from_frame, histories_from_parts
from attnrec.dataset.histories import UNKNOWN_EVENT


def items(histories: Histories, user: object) -> list:
    rows = histories.items_of(histories.user_ids.row(user))
    return histories.item_ids.decode(rows).tolist()


def write_parts(folder, *parts: list[tuple]) -> list:
    paths = [folder / f"part-{number}.parquet" for number in range(len(parts))]
    for path, rows in zip(paths, parts, strict=True):
        pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]).to_parquet(path, index=False)
    return paths


# --- vocabulary


def test_item_rows_start_at_one_and_unknown_items_map_to_padding():
    vocabulary = Vocabulary(["cup", "pan", "tea"], first=1)
    assert vocabulary.encode(["tea", "cup", "hat"]).tolist() == [3, 1, 0]
    assert vocabulary.decode(np.array([[3, 1]])).tolist() == [["tea", "cup"]]


def test_user_rows_start_at_zero_and_unknown_users_map_to_minus_one():
    assert Vocabulary(["ann", "bob"]).encode(["bob", "zoe"]).tolist() == [1, -1]


@pytest.mark.parametrize("unknown", ["hat", 7, None])
def test_row_raises_key_error_for_an_unknown_id(unknown):
    vocabulary = Vocabulary(["cup", "tea"], first=1)
    assert unknown not in vocabulary
    with pytest.raises(KeyError):
        vocabulary.row(unknown)


def test_integer_ids_are_found_as_integers_and_as_strings():
    vocabulary = Vocabulary([-5, 10, 20], first=1)
    assert vocabulary.encode([20, "20", np.int64(-5), "-5"]).tolist() == [3, 3, 1, 1]


@pytest.mark.parametrize("not_an_integer", ["--5", "5-", "", "²", "ten", None, 5.5])
def test_non_integers_are_unknown_to_a_vocabulary_of_integers(not_an_integer):
    vocabulary = Vocabulary([5, 10], first=1)
    assert not_an_integer not in vocabulary
    assert vocabulary.encode([not_an_integer, 10]).tolist() == [0, 2]


@pytest.mark.parametrize("first", [0, 1])
def test_to_arrow_returns_ids_as_strings(first):
    vocabulary = Vocabulary([-5, 10, 20], first=first)
    assert vocabulary.to_arrow(np.array([2, 0, 2]) + first).to_pylist() == ["20", "-5", "20"]
    assert Vocabulary(["cup", "tea"], first=first).to_arrow(np.array([1]) + first).to_pylist() == ["tea"]


@pytest.mark.parametrize("ids", [["cup", "tea"], [3, 7]])
@pytest.mark.parametrize("first", [0, 1])
def test_vocabulary_save_and_load_round_trip(tmp_path, ids, first):
    Vocabulary(ids, first=first).save(tmp_path / "ids.parquet")
    loaded = Vocabulary.load(tmp_path / "ids.parquet")
    assert loaded.ids.tolist() == ids
    assert loaded.first == first


# --- histories from a frame


def test_histories_are_sorted_by_user_and_time(tiny_log):
    histories = histories_from_frame(tiny_log)
    assert histories.user_ids.ids.tolist() == ["ann", "bob", "cid"]
    assert histories.item_ids.ids.tolist() == ["cup", "pan", "spoon", "tea"]
    assert histories.items.tolist() == [4, 1, 4, 3, 1, 2, 4]
    assert histories.times.tolist() == [1, 2, 3, 4, 10, 20, 5]
    assert histories.offsets.tolist() == [0, 4, 6, 7]
    assert histories.lengths.tolist() == [4, 2, 1]


def test_arrays_have_the_documented_dtypes(tiny_log):
    histories = histories_from_frame(tiny_log.assign(weight=1, event="view"))
    arrays = [
        histories.items,
        histories.times,
        histories.offsets,
        histories.lengths,
        histories.weights,
        histories.events,
    ]
    assert [str(array.dtype) for array in arrays] == ["int32", "int64", "int64", "int64", "float32", "uint8"]


def test_events_with_equal_times_keep_their_input_order():
    frame = pd.DataFrame({"user_id": "ann", "item_id": list("zebra"), "datetime": [5, 5, 1, 5, 5]})
    assert items(histories_from_frame(frame), "ann") == ["b", "z", "e", "r", "a"]


def test_histories_without_times_are_unordered_and_keep_their_input_order():
    frame = pd.DataFrame({"user_id": ["bob", "ann", "bob"], "item_id": ["z", "y", "x"]})
    histories = histories_from_frame(frame)
    assert not histories.ordered
    assert items(histories, "bob") == ["z", "x"]


@pytest.mark.parametrize("ordered", [True, False])
def test_long_histories_keep_their_input_order(ordered):
    item_ids = np.random.default_rng(0).permutation(3000)
    frame = pd.DataFrame({"user_id": [2, 1] * 1500, "item_id": item_ids})
    histories = histories_from_frame(frame.assign(datetime=7) if ordered else frame)
    assert items(histories, 1) == item_ids[1::2].tolist()


def test_event_types_are_coded_in_alphabetical_order(tiny_log):
    events = ["view", "cart", "view", "view", "buy", "view", "view"]
    histories = histories_from_frame(tiny_log.assign(event=events))
    assert histories.event_names == ("buy", "cart", "view")
    # events of ann by time: tea (log row 1, cart), cup (2, view), tea (5, view), spoon (4, buy)
    assert histories.events[:4].tolist() == [1, 2, 2, 0]


def test_weights_and_events_are_aligned_with_items(tiny_log):
    tiny_log = tiny_log.assign(weight=np.arange(7.0), event=list("abcabca"))
    histories = histories_from_frame(tiny_log)
    expected = tiny_log.sort_values(["user_id", "datetime"], ignore_index=True)
    assert histories.item_ids.decode(histories.items).tolist() == expected["item_id"].tolist()
    assert histories.times.tolist() == expected["datetime"].tolist()
    assert histories.weights.tolist() == expected["weight"].tolist()
    assert [histories.event_names[event] for event in histories.events] == expected["event"].tolist()


def test_to_datetime_returns_nat_without_timestamps(tiny_log):
    histories = histories_from_frame(tiny_log)
    assert histories.to_datetime(np.array([0]))[0] == pd.Timestamp("1970-01-01", tz="UTC")
    assert replace(histories, time_kind="order").to_datetime(np.array([0, 1])).isna().all()


def test_content_hash_differs_between_logs(tiny_log):
    same, other = tiny_log.copy(), tiny_log.assign(item_id="tea")
    assert histories_from_frame(tiny_log).content_hash == histories_from_frame(same).content_hash
    assert histories_from_frame(tiny_log).content_hash != histories_from_frame(other).content_hash


def test_up_to_returns_a_view_of_prefixes(tiny_log):
    histories = histories_from_frame(tiny_log)
    view = histories.up_to(np.array([2, 0, 1]))
    assert view.items is histories.items
    assert [items(view, user) for user in ("ann", "bob", "cid")] == [["tea", "cup"], [], ["tea"]]
    assert view.n_events == 3
    assert view.item_counts().tolist() == [0, 1, 0, 0, 2]


def test_a_view_longer_than_the_history_is_refused(tiny_log):
    histories = histories_from_frame(tiny_log)
    with pytest.raises(AssertionError):
        histories.up_to(histories.lengths + 1)


def test_positions_of_given_users(tiny_log):
    view = histories_from_frame(tiny_log).up_to(np.array([3, 0, 1]))
    assert view.positions().tolist() == [0, 1, 2, 6]
    assert view.positions(np.array([2, 1, 0])).tolist() == [6, 0, 1, 2]
    assert view.positions(np.array([], dtype=np.int64)).tolist() == []


def test_recode_drops_items_that_are_not_in_the_new_catalogue(tiny_log):
    histories = histories_from_frame(tiny_log.assign(weight=np.arange(7.0), event=list("abcabca")))
    recoded = histories.up_to(np.array([4, 1, 1])).recode(Vocabulary(["hat", "tea", "spoon"], first=1))
    assert recoded.items.tolist() == [2, 2, 3, 2]
    assert recoded.lengths.tolist() == [3, 0, 1]
    assert recoded.offsets.tolist() == [0, 3, 3, 4]
    assert recoded.times.tolist() == [1, 3, 4, 5]
    assert recoded.weights.tolist() == [1, 5, 4, 3]
    assert [recoded.event_names[code] for code in recoded.events] == ["b", "c", "b", "a"]
    assert recoded.n_items == 3


def test_saved_histories_are_loaded_memory_mapped(tmp_path, tiny_log, contains_pickle):
    histories = histories_from_frame(tiny_log.assign(weight=1.5, event="view")).up_to(np.array([3, 2, 1]))
    histories.save(tmp_path / "histories")
    loaded = Histories.load(tmp_path / "histories")
    for name in ("items", "times", "offsets", "lengths", "weights", "events"):
        assert isinstance(getattr(loaded, name), np.memmap)
        assert getattr(loaded, name).tolist() == getattr(histories, name).tolist()
    assert loaded.item_ids.ids.tolist() == histories.item_ids.ids.tolist()
    assert loaded.user_ids.ids.tolist() == histories.user_ids.ids.tolist()
    attributes = ("event_names", "ordered", "content_hash", "n_items", "n_users", "n_events")
    assert all(getattr(loaded, name) == getattr(histories, name) for name in attributes)
    assert not any(contains_pickle(path) for path in (tmp_path / "histories").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["histories"]


def test_integer_ids_stay_integers_after_save_and_load(tmp_path):
    frame = pd.DataFrame({"user_id": [7, 7, 3], "item_id": [100, 20, 100], "datetime": [1, 2, 3]})
    histories_from_frame(frame).save(tmp_path / "histories")
    loaded = Histories.load(tmp_path / "histories")
    assert loaded.user_ids.ids.tolist() == [3, 7]
    assert items(loaded, 7) == [100, 20]


# --- histories from parts


def test_parts_give_the_same_histories_as_the_whole_frame(tmp_path, tiny_log):
    ordered = tiny_log.sort_values(["user_id", "datetime"])
    rows = list(ordered.itertuples(index=False, name=None))
    parts = write_parts(tmp_path, rows[4:6], rows[:4] + rows[6:])
    histories = histories_from_parts(parts, time_kind="datetime", content_hash="log")
    assert histories.content_hash == "log"
    whole = histories_from_frame(tiny_log)
    for user in ("ann", "bob", "cid"):
        assert items(histories, user) == items(whole, user)
    assert histories.times[histories.positions(histories.user_ids.encode(["bob"]))].tolist() == [10, 20]


def test_rare_items_are_dropped_before_users_are_counted(tmp_path):
    parts = write_parts(
        tmp_path,
        [("ann", "tea", 1), ("ann", "hat", 2), ("ann", "cup", 3)],
        [("bob", "tea", 1), ("bob", "fan", 2), ("cid", "cup", 1), ("cid", "tea", 2)],
    )
    histories = histories_from_parts(parts, time_kind="datetime", content_hash="", min_item_events=2, min_user_events=2)
    assert histories.item_ids.ids.tolist() == ["cup", "tea"]  # hat and fan have one event each
    assert histories.user_ids.ids.tolist() == ["ann", "cid"]  # bob has one event left
    assert items(histories, "ann") == ["tea", "cup"]


def test_a_part_that_is_empty_after_filtering_is_skipped(tmp_path):
    parts = write_parts(tmp_path, [(1, 50, 1), (1, 60, 2)], [(2, 70, 1)], [(3, 60, 1), (3, 50, 2)])
    histories = histories_from_parts(parts, time_kind="datetime", content_hash="", min_item_events=2)
    assert histories.user_ids.ids.tolist() == [1, 3]
    assert histories.user_ids.encode([3, "3"]).tolist() == [1, 1]
    assert items(histories, 3) == [60, 50]


def test_filters_that_drop_every_event_are_refused(tmp_path):
    parts = write_parts(tmp_path, [("ann", "tea", 1), ("ann", "hat", 2)])
    with pytest.raises(ValueError, match="got none after filtering; lower min_item_events"):
        histories_from_parts(parts, time_kind="datetime", content_hash="", min_item_events=2)


def test_with_event_names_recodes_event_types():
    log = pd.DataFrame(
        {"user_id": "ann", "item_id": list("abc"), "datetime": [1, 2, 3], "event": ["view", "add", "buy"]}
    )
    histories = histories_from_frame(log)
    assert (histories.event_names, histories.events.tolist()) == (("add", "buy", "view"), [2, 0, 1])
    other = histories.with_event_names(("buy", "view"))
    assert (other.event_names, other.events.tolist()) == (("buy", "view"), [1, UNKNOWN_EVENT, 0])
    assert histories.with_event_names(()) is histories
    assert histories.with_event_names(("add", "buy", "view")) is histories
    without = histories_from_frame(log.drop(columns="event"))
    assert without.with_event_names(("buy",)) is without
