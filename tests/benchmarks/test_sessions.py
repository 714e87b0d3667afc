"""Diginetica's files as sessions and questions."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from diginetica import all_prefixes, load_diginetica

from attnrec.dataset import Vocabulary

IDS = Vocabulary(np.arange(1, 8), first=1)


def shown(holdout):
    histories = holdout.histories
    return [(histories.items_of(user).tolist(), int(answer)) for user, answer in zip(holdout.users, holdout.targets)]  # noqa: B905


def test_every_prefix_of_a_session_is_a_question():
    sessions = all_prefixes(np.array([1, 2, 3, 5, 4, 4]), np.array([3, 1, 2]), IDS)
    assert shown(sessions) == [([1], 2), ([1, 2], 3), ([4], 4)]
    assert all_prefixes(np.array([1]), np.array([1]), IDS).users.tolist() == []


def written(folder: Path) -> Path:
    frames = {
        "train_sessions": {"session_id": [0, 0, *([1] * 3)], "item_id": [3, 1, 1, 2, 3]},
        "test_prefixes": {"session_id": [5, 5, 4], "item_id": [2, 1, 9]},
        "test_targets": {"session_id": [4, 5], "item_id": [1, 3]},
    }
    for name, columns in frames.items():
        pd.DataFrame(columns).to_parquet(folder / f"{name}.parquet")
    return folder


def test_test_questions_find_their_answers_by_session(tmp_path):
    final = load_diginetica(written(tmp_path)).final
    assert final.train.item_ids.ids.tolist() == [1, 2, 3, 9]
    assert [final.train.items_of(session).tolist() for session in (0, 1)] == [[3, 1], [1, 2, 3]]
    day = 86_400 * 152 // 186_670
    assert final.train.times.tolist() == [0, 1, day, day + 1, day + 2]
    assert shown(final.holdout) == [([2, 1], 3), ([4], 1)]  # 9 is row 4, and nobody had it


def test_the_last_tenth_is_held_and_the_rest_comes_before_it(real_data):
    data = load_diginetica(real_data / "diginetica")
    assert data.final.train.n_events == 906_140
    assert len(data.final.holdout.users) == 60_858
    n_held = data.final.train.n_users - data.choosing.train.n_users
    assert n_held == 18_667
    n_questions = data.final.train.n_events - data.choosing.train.n_events - n_held
    assert len(data.choosing.holdout.users) == n_questions
    assert data.choosing.train.items.tolist() == data.final.train.items[: data.choosing.train.n_events].tolist()
