"""Diginetica's files as training sessions and holdouts."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from diginetica import all_prefixes, load_diginetica

from attnrec.dataset import Vocabulary

IDS = Vocabulary(np.arange(1, 8), first=1)


def prefixes_and_targets(holdout):
    histories = holdout.histories
    return [(histories.items_of(user).tolist(), int(target)) for user, target in zip(holdout.users, holdout.targets)]  # noqa: B905


def test_every_prefix_of_a_session_is_evaluated():
    sessions = all_prefixes(np.array([1, 2, 3, 5, 4, 4]), np.array([3, 1, 2]), IDS)
    assert prefixes_and_targets(sessions) == [([1], 2), ([1, 2], 3), ([4], 4)]
    assert all_prefixes(np.array([1]), np.array([1]), IDS).users.tolist() == []


def write_files(folder: Path) -> Path:
    frames = {
        "train_sessions": {"session_id": [0, 0, *([1] * 3)], "item_id": [3, 1, 1, 2, 3]},
        "test_prefixes": {"session_id": [5, 5, 4], "item_id": [2, 1, 9]},
        "test_targets": {"session_id": [4, 5], "item_id": [1, 3]},
    }
    for name, columns in frames.items():
        pd.DataFrame(columns).to_parquet(folder / f"{name}.parquet")
    return folder


def test_test_prefixes_are_matched_with_their_targets_by_session(tmp_path):
    final = load_diginetica(write_files(tmp_path)).final
    assert final.train.item_ids.ids.tolist() == [1, 2, 3, 9]
    assert [final.train.items_of(session).tolist() for session in (0, 1)] == [[3, 1], [1, 2, 3]]
    day = 86_400 * 152 // 186_670
    assert final.train.times.tolist() == [0, 1, day, day + 1, day + 2]
    assert prefixes_and_targets(final.holdout) == [([2, 1], 3), ([4], 1)]  # 9 is row 4 and has no training event


def test_the_last_tenth_of_the_sessions_is_held_out(real_data):
    data = load_diginetica(real_data / "diginetica")
    assert data.final.train.n_events == 906_140
    assert len(data.final.holdout.users) == 60_858
    n_held_out = data.final.train.n_users - data.choosing.train.n_users
    assert n_held_out == 18_667
    n_prefixes = data.final.train.n_events - data.choosing.train.n_events - n_held_out
    assert len(data.choosing.holdout.users) == n_prefixes
    assert data.choosing.train.items.tolist() == data.final.train.items[: data.choosing.train.n_events].tolist()
