"""EASE and V-SKNN against plain reference implementations on small logs."""

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import histories_from_frame, last_events, split_last
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import EASE, VSKNN, EASEConfig, PopularityConfig, VSKNNConfig, build_model
from attnrec.models.distinct_items import last_occurrences
from attnrec.models.saved_model import SavedModel, load_model, save_model

N_ITEMS = 12


@pytest.fixture
def crowd():
    """40 users with 1 to 12 events among 12 items, with repeated items and equal times."""
    random = np.random.default_rng(4)
    rows = [
        (f"user-{user}", int(random.integers(N_ITEMS) * random.random()), int(random.integers(30)))
        for user in range(40)
        for _ in range(random.integers(1, 13))
    ]
    rows += [("all", item, item) for item in range(N_ITEMS)]  # every item occurs
    return histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))


def fitted(config, histories):
    model = build_model(config, histories.n_items).eval()
    model.observe(histories)
    return model


def scores_of(model, histories, users):
    return model.score(last_events(histories, np.asarray(users), max_length=model.max_length))


def test_last_occurrences_by_hand(make_batch):
    batch = make_batch([1, 3, 1, 5, 3], [2], [], [4, 4, 4])
    expected = [[0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert last_occurrences(batch.items).int().tolist() == expected


# --- EASE


def ease_reference(histories, regularization):
    seen = np.zeros((histories.n_users, histories.n_items + 1))
    for user in range(histories.n_users):
        seen[user, histories.items_of(user)] = 1
    inverse = np.linalg.inv(seen.T @ seen + regularization * np.eye(seen.shape[1]))
    weights = np.eye(len(inverse)) - inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return seen, weights


@pytest.mark.parametrize("regularization", [0.5, 500.0])
def test_ease_equals_a_float64_reference(crowd, regularization):
    model = fitted(EASEConfig(regularization=regularization), crowd)
    seen, weights = ease_reference(crowd, regularization)
    np.testing.assert_allclose(model.item_weights.numpy(), weights, rtol=1e-5, atol=1e-7)
    scores = scores_of(model, crowd, range(crowd.n_users))
    np.testing.assert_allclose(scores.numpy(), seen @ weights, rtol=1e-4, atol=1e-6)


def test_ease_in_float32_is_close_to_float64(crowd):
    model, (_, weights) = fitted(EASEConfig(precision="float32"), crowd), ease_reference(crowd, 500.0)
    np.testing.assert_allclose(model.item_weights.numpy(), weights, rtol=1e-3, atol=1e-5)
    assert model.item_weights.dtype == torch.float32


def test_ease_of_two_items_by_hand(make_histories, make_batch):
    # X'X + 2 I = [[4, 1], [1, 3]], its inverse [[3, -1], [-1, 4]] / 11: b gets 1 / 4 from a, a gets 1 / 3 from b
    model = fitted(EASEConfig(regularization=2.0), make_histories({"ann": "ab", "bob": "a"}))
    np.testing.assert_allclose(model.score(make_batch([1], [2])).numpy(), [[0, 0, 1 / 4], [0, 1 / 3, 0]], rtol=1e-6)


def test_weights_of_ease_are_zero_on_the_diagonal_and_for_padding(crowd):
    weights = fitted(EASEConfig(), crowd).item_weights
    assert (weights.diagonal() == 0).all()
    assert (weights[0] == 0).all()
    assert (weights[:, 0] == 0).all()


def test_ease_in_several_blocks_equals_one(monkeypatch, crowd):
    found = []
    for block in (5, 256):
        monkeypatch.setattr("attnrec.models.distinct_items.BLOCK", block)
        found.append(fitted(EASEConfig(), crowd).item_weights)
    assert torch.equal(*found)


def test_a_repeated_item_counts_once_at_its_last_occurrence(crowd, make_batch):
    items = torch.arange(N_ITEMS + 1)[None]
    for config in (EASEConfig(), VSKNNConfig()):
        parts = fitted(config, crowd).contributions(make_batch([3, 1, 3, 3, 2]), items)[0]
        assert (parts[[0, 2]] == 0).all()
        assert parts[[1, 3, 4]].any(-1).all()
    ease = fitted(EASEConfig(), crowd)
    torch.testing.assert_close(ease.score(make_batch([3, 1, 3, 3, 2])), ease.score(make_batch([1, 2, 3])))


def test_scores_of_ease_do_not_depend_on_the_order_of_events(crowd, make_batch):
    model = fitted(EASEConfig(), crowd)
    torch.testing.assert_close(model.score(make_batch([1, 5, 9])), model.score(make_batch([9, 1, 5])))


def test_ease_rejects_catalogues_above_max_items():
    message = r"up to max_items = 20,000 items, got 50,000 \(10\.0 GB of weights, 60\.0 GB to fit them\); filter rare"
    with pytest.raises(ValueError, match=message):
        EASE(EASEConfig(), 50_000)
    EASE(EASEConfig(max_items=10), 10)
    with pytest.raises(ValueError, match="max_items = 10 items, got 11"):
        EASE(EASEConfig(max_items=10), 11)


@pytest.mark.parametrize("config", [EASEConfig(), VSKNNConfig()], ids=["ease", "v_sknn"])
def test_ndcg_on_the_synthetic_shop_is_above_popularity(shop, config):
    split = split_last(histories_from_frame(shop.interactions))
    ndcg = [
        evaluate(fitted(each, split.train), split.validation, ks=(10,), intervals=False).summary["ndcg_at_10"]
        for each in (config, PopularityConfig())
    ]
    assert ndcg[0] > 1.5 * ndcg[1]


# --- V-SKNN


def v_sknn_reference(histories, history, *, n_neighbours, sample_size):
    """V-SKNN as in the docstring of the module, in plain Python."""
    sessions = [
        (int(histories.times[histories.offsets[user] + histories.lengths[user] - 1]), user, set(items.tolist()))
        for user in range(histories.n_users)
        if len(items := histories.items_of(user))
    ]
    n, scores = len(history), [0.0] * (histories.n_items + 1)
    last = {item: position for position, item in enumerate(history, start=1)}  # the last occurrence of each item
    candidates = sorted((session for session in sessions if session[2] & last.keys()), reverse=True)[:sample_size]
    similarities = [(sum(last[item] for item in items & last.keys()), items) for _, _, items in candidates]
    similarities.sort(key=lambda pair: -pair[0])
    for similarity, items in similarities[:n_neighbours]:
        s = n - max(last[item] for item in items & last.keys()) + 1
        for item in items:
            scores[item] += similarity / n / s
    return scores


@pytest.mark.parametrize(("n_neighbours", "sample_size"), [(100, 1000), (5, 1000), (5, 12), (3, 3), (1, 1)])
def test_v_sknn_equals_a_plain_reference(crowd, n_neighbours, sample_size):
    settings = {"n_neighbours": n_neighbours, "sample_size": sample_size}
    model = fitted(VSKNNConfig(**settings, max_length=8), crowd)
    scores = scores_of(model, crowd, range(crowd.n_users))
    for user in range(crowd.n_users):
        history = crowd.items_of(user)[-8:].tolist()
        np.testing.assert_allclose(scores[user].numpy(), v_sknn_reference(crowd, history, **settings), rtol=1e-5)


def test_v_sknn_by_hand(make_histories, make_batch):
    # history a, b: weights 1/2 and 1. ann shares both: 3/2, s = 1; bob shares a: 1/2, s = 2
    model = fitted(VSKNNConfig(), make_histories({"ann": "abc", "bob": "ad", "cid": "e"}))
    expected = [0, 3 / 2 + 1 / 2 / 2, 3 / 2, 3 / 2, 1 / 2 / 2, 0]
    np.testing.assert_allclose(model.score(make_batch([1, 2]))[0].numpy(), expected, rtol=1e-6)
    parts = model.contributions(make_batch([1, 2]), torch.tensor([[3, 4, 1]]))[0]
    # similarity to ann: 1/2 from a and 1 from b; similarity to bob: all from a
    np.testing.assert_allclose(parts.numpy(), [[1 / 2, 1 / 4, 1 / 2 + 1 / 4], [1, 0, 1]], rtol=1e-6)


def test_ties_between_sessions_are_resolved_by_recency(make_histories, make_batch):
    # times are positions: the session of cid, with one event, ended first, that of bob, with three, last
    histories = make_histories({"bob": "xay", "ann": "ab", "cid": "a"})
    rows = {item: row for row, item in enumerate("abxy", start=1)}
    model = fitted(VSKNNConfig(n_neighbours=1), histories)
    scores = model.score(make_batch([rows["a"]]))[0]
    assert [scores[rows[item]].item() for item in "axyb"] == [1, 1, 1, 0]


def test_sample_size_limits_candidates_to_the_most_recent_sessions(make_histories, make_batch):
    # ann shares two items, but the sessions of bob and cid ended later
    histories = make_histories({"ann": "ab", "bob": "xxb", "cid": "xxxb"})
    rows = {item: row for row, item in enumerate("abx", start=1)}
    history = make_batch([rows["a"], rows["b"]])
    assert fitted(VSKNNConfig(), histories).score(history)[0, rows["a"]] > 0
    assert fitted(VSKNNConfig(sample_size=2), histories).score(history)[0, rows["a"]] == 0


def test_sessions_contain_the_training_part_only(make_histories, make_batch):
    view = make_histories({"ann": "abc", "bob": "bd"}).up_to(np.array([2, 0]))
    scores = fitted(VSKNNConfig(), view).score(make_batch([2]))[0]
    assert scores.tolist() == [0, 1, 1, 0, 0]


def test_v_sknn_without_training_events_scores_zero(make_histories, make_batch):
    view = make_histories({"ann": "ab"}).up_to(np.array([0]))
    for model in (fitted(VSKNNConfig(), view), VSKNN(VSKNNConfig(), 2)):
        batch, items = make_batch([1, 2], [2], []), torch.tensor([[1, 2]] * 3)
        assert (model.score(batch) == 0).all()
        assert (model.score(batch, items) == 0).all()
        assert (model.contributions(batch, items) == torch.zeros(3, 2, 2)).all()


def test_a_saved_v_sknn_contains_its_sessions_without_user_ids(crowd, tmp_path):
    model = fitted(VSKNNConfig(), crowd)
    save_model(SavedModel(model, crowd.item_ids), tmp_path)
    loaded = load_model(tmp_path).model
    users = list(range(crowd.n_users))
    assert torch.equal(scores_of(loaded, crowd, users), scores_of(model, crowd, users))
    assert not any(b"user-" in path.read_bytes() for path in tmp_path.iterdir())


def test_loading_replaces_the_sessions(crowd, make_histories):
    letters = "abcdefghijkl"
    other = fitted(VSKNNConfig(), make_histories({"ann": letters}))
    model = fitted(VSKNNConfig(), crowd)
    model.load_state_dict(other.state_dict())
    assert model.pairs.tolist() == other.pairs.tolist()
    assert model.sessions.tolist() == [0] * len(letters)
