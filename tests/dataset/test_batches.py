import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import Batch, Histories, Windows, histories_from_frame, last_events, user_batches


@pytest.fixture(scope="module")
def many() -> Histories:
    """90 users with 1 to 90 events; every event has a different item, which identifies it."""
    users = np.repeat(np.arange(90), np.arange(1, 91))
    return histories_from_frame(
        pd.DataFrame({"user_id": users, "item_id": np.arange(len(users)), "datetime": np.arange(len(users))})
    )


def real_targets(batch: Batch) -> list[int]:
    return batch.targets[batch.targets > 0].tolist()


def epoch_items(windows: Windows, epoch: int, *, first: int = 0) -> list[list]:
    return [batch.items.tolist() for batch in windows.epoch(epoch, first_batch=first)]


# --- the last events of users


def test_batches_are_padded_on_the_right(make_histories):
    batch = last_events(make_histories({"ann": "abc", "bob": "b"}), np.array([0, 1]), max_length=10)
    assert batch.items.tolist() == [[1, 2, 3], [2, 0, 0]]
    assert batch.times.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.real.tolist() == [[True, True, True], [True, False, False]]
    assert batch.targets is None


def test_long_histories_are_cut_to_their_last_events(make_histories):
    batch = last_events(make_histories({"ann": "abcde", "bob": "b"}), np.array([1, 0]), max_length=2)
    assert batch.items.tolist() == [[2, 0], [4, 5]]


def test_only_visible_events_are_used(make_histories):
    view = make_histories({"ann": "abcde", "bob": "ba"}).up_to(np.array([3, 0]))
    batch = last_events(view, np.array([0, 1]), max_length=2)
    assert batch.items.tolist() == [[2, 3], [0, 0]]
    assert batch.lengths.tolist() == [2, 0]


def test_weights_and_event_types_are_part_of_the_batch():
    frame = pd.DataFrame({"user_id": ["ann", "ann", "bob"], "item_id": ["x", "y", "x"], "datetime": [1, 2, 3]})
    histories = histories_from_frame(frame.assign(weight=[0.5, 2, 3], event=["view", "buy", "view"]))
    batch = last_events(histories, np.array([0, 1]), max_length=5)
    assert batch.weights.tolist() == [[0.5, 2.0], [3.0, 0.0]]
    assert batch.events.tolist() == [[2, 1], [2, 0]]  # buy is 1, view is 2, 0 is padding


def test_a_log_without_visible_events_gives_an_empty_row(make_histories):
    no_visible_events = make_histories({"ann": "a"}).up_to(np.array([0]))
    empty = Histories(
        no_visible_events.user_ids,
        no_visible_events.item_ids,
        no_visible_events.items[:0],
        no_visible_events.times[:0],
        np.zeros(2, int),
        np.zeros(1, int),
    )
    for histories in (no_visible_events, empty):
        batch = last_events(histories, np.array([0]), max_length=5)
        assert batch.items.tolist() == [[0]]
        assert batch.lengths.tolist() == [0]


def test_user_batches_contain_each_user_once_sorted_by_length(many):
    users = np.array([80, 3, 50, 1, 79, 2])
    batches = list(user_batches(many, users, max_length=100, batch_size=3))
    assert [users[indices].tolist() for indices, _ in batches] == [[80, 79, 50], [3, 2, 1]]
    for indices, batch in batches:
        assert batch.lengths.tolist() == (users[indices] + 1).tolist()


# --- training windows


@pytest.mark.parametrize("max_length", [1, 7, 30, 200])
def test_every_event_except_a_users_first_is_a_target_exactly_once(many, max_length):
    windows = Windows(many, max_length=max_length, batch_size=8)
    targets = [target for batch in windows.epoch(0) for target in real_targets(batch)]
    firsts = many.items[many.offsets[:-1]].tolist()
    assert sorted([*targets, *firsts]) == sorted(many.items.tolist())


@pytest.mark.parametrize("max_length", [1, 7, 200])
def test_windows_of_sets_contain_every_event_exactly_once(many, max_length):
    windows = Windows(many, max_length=max_length, batch_size=8, next_item=False)
    batches = list(windows.epoch(0))
    items = [item for batch in batches for item in batch.items[batch.real].tolist()]
    assert sorted(items) == sorted(many.items.tolist())
    assert all(batch.targets is None for batch in batches)


def test_the_target_of_a_position_is_the_next_item(make_histories):
    (batch,) = Windows(make_histories({"ann": "abca", "bob": "cb"}), max_length=10, batch_size=4).epoch(0)
    pairs = {tuple(items): targets for items, targets in zip(batch.items.tolist(), batch.targets.tolist(), strict=True)}
    assert pairs == {(1, 2, 3): [2, 3, 1], (3, 0, 0): [2, 0, 0]}


def test_long_histories_are_split_into_windows_from_their_end(make_histories):
    (batch,) = Windows(make_histories({"ann": "abcdef"}), max_length=3, batch_size=4).epoch(0)
    pairs = {tuple(items): targets for items, targets in zip(batch.items.tolist(), batch.targets.tolist(), strict=True)}
    assert pairs == {(3, 4, 5): [4, 5, 6], (1, 2, 0): [2, 3, 0]}


def test_events_outside_a_view_are_never_targets(make_histories):
    view = make_histories({"ann": "abcdef", "bob": "fa"}).up_to(np.array([3, 1]))
    (batch,) = Windows(view, max_length=3, batch_size=4).epoch(0)
    assert batch.items.tolist() == [[1, 2]]
    assert batch.targets.tolist() == [[2, 3]]


def test_users_with_one_event_have_no_window(make_histories):
    assert len(Windows(make_histories({"ann": "a", "bob": "b"}), max_length=3, batch_size=4)) == 0


def test_len_is_the_number_of_batches_per_epoch(many):
    windows = Windows(many, max_length=20, batch_size=8)
    assert len(list(windows.epoch(0))) == len(windows)


def test_batches_contain_windows_of_similar_length(many):
    windows = Windows(many, max_length=90, batch_size=10)
    spread = [int(batch.lengths.max() - batch.lengths.min()) for batch in windows.epoch(0)]
    # 89 windows of 1 to 89 events in one pool: sorted by length, ten windows differ by at most nine
    assert max(spread) <= 9


def test_the_order_depends_on_seed_and_epoch_only(many):
    def make(seed: int) -> Windows:
        return Windows(many, max_length=20, batch_size=8, seed=seed)

    assert epoch_items(make(1), 3) == epoch_items(make(1), 3)
    assert epoch_items(make(1), 3) != epoch_items(make(1), 4)
    assert epoch_items(make(1), 3) != epoch_items(make(2), 3)


def test_the_order_does_not_depend_on_the_state_of_torch(many):
    windows = Windows(many, max_length=20, batch_size=8)
    torch.manual_seed(1)
    before = epoch_items(windows, 0)
    torch.manual_seed(2)
    assert epoch_items(windows, 0) == before


def test_an_epoch_can_be_resumed_at_a_batch(many):
    windows = Windows(many, max_length=20, batch_size=8)
    assert epoch_items(windows, 1, first=5) == epoch_items(windows, 1)[5:]
