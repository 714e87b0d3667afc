from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from attnrec.dataset import last_events
from attnrec.models import GATConfig, ItemKNNConfig, PopularityConfig, SequenceConfig, build_model
from attnrec.models.item_scores import VectorEncoding
from attnrec.scoring.reasons import largest_reasons
from attnrec.scoring.recommendations import AdditivityError, ScoreConfig, recommend
from attnrec.scoring.tables import to_table, write_table

SMALL = {"dim": 16, "heads": 2, "layers": 1, "pooling_heads": 2, "max_length": 8}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def fitted(config, histories):
    torch.manual_seed(2)
    model = build_model(config, histories.n_items)
    model.observe(histories)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@pytest.fixture(params=["item_knn", "attnrec", "gat"])
def model(request, checkerboard):
    gat = {name: value for name, value in SMALL.items() if name != "layers"}
    configs = {"item_knn": ItemKNNConfig(), "attnrec": SequenceConfig(**SMALL), "gat": GATConfig(**gat)}
    model = fitted(configs[request.param], checkerboard.histories)
    model.refresh()
    return model


def table_of(model, histories, users=None, **settings):
    users = np.arange(histories.n_users) if users is None else np.array(users)
    recommendations = recommend(model, histories, users, config=ScoreConfig(**settings))
    return to_table(recommendations, histories, model_version="7", scored_at=NOON)


def items_by_user(table) -> dict[str, list[str]]:
    frame = table.to_pandas()
    return frame.groupby("user_id")["item_id"].agg(list).to_dict()


# --- the table


def test_a_row_has_user_rank_item_score_and_reasons(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc", "cid": "bc"})
    model = build_model(ItemKNNConfig(shrinkage=0.0), 3)
    model.observe(histories)
    (row,) = table_of(model, histories, [0], k=5).to_pylist()
    a_c, b_c = 1 / (2 * 2) ** 0.5, 2 / (3 * 2) ** 0.5  # common users over the roots of the counts
    assert {name: row[name] for name in ("user_id", "rank", "item_id", "item_bias")} == {
        "user_id": "ann",
        "rank": 1,
        "item_id": "c",
        "item_bias": 0,
    }
    assert row["score"] == pytest.approx(a_c + b_c)
    assert [reason["item_id"] for reason in row["reasons"]] == ["b", "a"]
    assert [reason["contribution"] for reason in row["reasons"]] == pytest.approx([b_c, a_c])
    assert [reason["weight"] for reason in row["reasons"]] == [None, None]
    assert (row["model_version"], row["scored_at"]) == ("7", NOON)


def test_a_user_without_history_gets_popular_items_with_source_popularity(model, make_histories):
    histories = make_histories({"ann": "abcdefghijkl", "bob": "ab"}).up_to(np.array([0, 2]))
    rows = table_of(model, histories, k=2).to_pylist()
    assert [(row["user_id"], row["source"]) for row in rows] == [
        ("ann", "popularity"),
        ("ann", "popularity"),
        ("bob", "history"),
        ("bob", "history"),
    ]
    assert rows[0]["reasons"] == []
    assert rows[0]["score"] == pytest.approx(rows[0]["item_bias"])


def test_two_runs_write_the_same_bytes(model, checkerboard, tmp_path):
    for name in ("one", "two"):
        write_table(table_of(model, checkerboard.histories, k=4), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert pq.read_table(tmp_path / "one").num_rows > 0


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_no_recommendation(model, checkerboard, batch_size):
    one, other = (table_of(model, checkerboard.histories, k=4, batch_size=size) for size in (256, batch_size))
    for column in ("user_id", "rank", "item_id"):
        assert one[column].to_pylist() == other[column].to_pylist()
    np.testing.assert_allclose(one["score"].to_numpy(), other["score"].to_numpy(), rtol=1e-5, atol=1e-5)


def test_rows_have_the_order_of_the_requested_users(model, checkerboard):
    table = table_of(model, checkerboard.histories, [5, 60, 3], k=1)
    assert table["user_id"].to_pylist() == checkerboard.histories.user_ids.ids[[5, 60, 3]].tolist()


def test_scores_do_not_increase_with_rank(model, checkerboard):
    frame = table_of(model, checkerboard.histories, k=6).to_pandas()
    differences = frame.groupby("user_id")["score"].diff().dropna()
    assert (differences <= 0).all()
    assert frame.groupby("user_id")["rank"].agg(list).map(lambda ranks: ranks == list(range(1, len(ranks) + 1))).all()


# --- additivity of published scores


def test_a_score_is_the_item_bias_plus_all_contributions(model, checkerboard):
    result = recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=3, filter_viewed=False))
    batch = last_events(checkerboard.histories, np.arange(60), max_length=model.max_length)
    items = torch.from_numpy(result.items).long()
    with torch.inference_mode():
        parts = model.contributions(batch, items)
        expected = model.score(batch, items)
    np.testing.assert_allclose(result.scores, expected.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.scores, result.item_bias + parts.sum(1).numpy(), rtol=1e-4, atol=1e-4)


def test_with_enough_reasons_they_are_all_positive_contributions(model, checkerboard):
    result = recommend(
        model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=3, n_reasons=8, filter_viewed=False)
    )
    batch = last_events(checkerboard.histories, np.arange(60), max_length=model.max_length)
    with torch.inference_mode():
        parts = model.contributions(batch, torch.from_numpy(result.items).long()).numpy()
    negative = parts.clip(max=0).sum(1)  # on the checkerboard no history contains an item twice
    positive = np.where(result.reason_items > 0, result.reason_contributions, 0)
    assert (positive >= 0).all()
    np.testing.assert_allclose(result.scores, result.item_bias + positive.sum(2) + negative, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.other_events, negative, rtol=1e-4, atol=1e-4)


def test_without_negative_contributions_reasons_and_item_bias_sum_to_the_score(checkerboard):
    model = fitted(ItemKNNConfig(), checkerboard.histories)
    result = recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=3, n_reasons=6))
    filled = result.items > 0
    total = result.item_bias + np.where(result.reason_items > 0, result.reason_contributions, 0).sum(2)
    np.testing.assert_allclose(result.scores[filled], total[filled], rtol=1e-5)


def test_other_events_are_the_contributions_without_the_reasons(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc", "cid": "bc"})
    model = build_model(ItemKNNConfig(shrinkage=0.0), 3)
    model.observe(histories)
    (row,) = table_of(model, histories, [0], k=1, n_reasons=1).to_pylist()
    a_c, b_c = 1 / (2 * 2) ** 0.5, 2 / (3 * 2) ** 0.5
    assert [reason["contribution"] for reason in row["reasons"]] == pytest.approx([b_c])
    assert row["other_events"] == pytest.approx(a_c)
    assert row["score"] == pytest.approx(b_c + row["other_events"] + row["item_bias"])
    assert row["explained_share"] == pytest.approx(b_c / (a_c + b_c))
    (row,) = table_of(model, histories, [0], k=1, n_reasons=0).to_pylist()
    assert row["other_events"] == pytest.approx(a_c + b_c)
    assert row["explained_share"] is None


def test_reasons_are_sorted_and_limited_to_the_largest(model, checkerboard):
    six, three = (
        recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=2, n_reasons=n)) for n in (6, 3)
    )
    is_reason = six.reason_items > 0
    contributions = np.where(is_reason, six.reason_contributions, 0)
    assert (contributions[is_reason] > 0).all()
    assert (contributions[..., 1:] <= contributions[..., :-1]).all()
    np.testing.assert_array_equal(three.reason_items, six.reason_items[..., :3])


def test_events_of_the_same_item_are_one_reason(make_histories):
    histories = make_histories({"ann": "abaa", "bob": "abc", "cid": "cb", "dan": "ca"})
    model = build_model(ItemKNNConfig(shrinkage=0.0), 3)
    model.observe(histories)
    (row,) = table_of(model, histories, [0], k=1).to_pylist()
    # a: ann bob dan; b: ann bob cid; c: bob cid dan
    assert [reason["item_id"] for reason in row["reasons"]] == ["a", "b"]
    assert [reason["contribution"] for reason in row["reasons"]] == pytest.approx([3 * 2 / 3, 2 / 3])


def test_contributions_and_weights_are_summed_by_item_and_negative_sums_are_no_reasons():
    encoded = SimpleNamespace(weights=torch.tensor([[0.25, 0.5, 0.125, 0.125, 0.0]]))
    history = torch.tensor([[7, 2, 7, 4, 0]])
    contributions = torch.tensor([[[0.5, -1.0], [0.25, 2.0], [0.125, -1.0], [-3.0, 0.5], [0.0, 0.0]]])
    reasons = largest_reasons(encoded, history, contributions, m=3)
    assert reasons.items.tolist() == [[[7, 2, 0], [2, 4, 0]]]
    assert reasons.contributions[0, 0, :2].tolist() == [0.5 + 0.125, 0.25]
    assert reasons.contributions[0, 1, :2].tolist() == [2.0, 0.5]
    assert reasons.weights[0, 0, :2].tolist() == [0.25 + 0.125, 0.5]
    assert reasons.weights[0, 1, :2].tolist() == [0.5, 0.125]
    # absolute values are taken after the sum over the events of an item: item 7 has .5 + .125 and -1 - 1
    explained_share = [(0.625 + 0.25) / (0.625 + 0.25 + 3), (2 + 0.5) / (2 + 0.5 + 2)]
    assert reasons.explained_share[0].tolist() == pytest.approx(explained_share)


def test_n_reasons_zero_gives_no_reasons(model, checkerboard):
    assert set(map(len, table_of(model, checkerboard.histories, k=2, n_reasons=0)["reasons"].to_pylist())) == {0}


def test_a_model_without_exact_reasons_has_scores_and_no_reasons(checkerboard):
    model = fitted(SequenceConfig(**SMALL, readout="last"), checkerboard.histories)
    table = table_of(model, checkerboard.histories, k=2)
    assert set(map(len, table["reasons"].to_pylist())) == {0}
    assert np.isfinite(table["score"].to_numpy()).all()
    assert table["other_events"].null_count == table["explained_share"].null_count == table.num_rows


@pytest.mark.parametrize("wrong", ["scores", "contributions"])
def test_a_score_that_is_not_the_sum_of_its_contributions_raises_an_error(wrong, checkerboard, monkeypatch):
    model = fitted(SequenceConfig(**SMALL), checkerboard.histories)
    correct = getattr(VectorEncoding, wrong)
    monkeypatch.setattr(VectorEncoding, wrong, lambda encoded, items=None: correct(encoded, items) * 1.01)
    with pytest.raises(
        AdditivityError, match=r"a score must be the sum of its contributions.*, got \S+ for item row \d+"
    ):
        recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=2))


def test_additivity_is_checked_without_reasons_too(checkerboard, monkeypatch):
    model = fitted(ItemKNNConfig(), checkerboard.histories)
    bias = torch.zeros(13)
    bias[4] = 0.5  # one of twelve items, recommended to half of the users
    monkeypatch.setattr(type(model), "item_bias", lambda model: bias)
    with pytest.raises(AdditivityError, match="item row 4"):
        recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=2, n_reasons=0))


def test_the_score_of_popularity_is_the_item_bias(make_histories):
    histories = make_histories({"ann": "a", "bob": "abb"})
    model = fitted(PopularityConfig(), histories)
    (row,) = table_of(model, histories, [0]).to_pylist()
    assert row["score"] == row["item_bias"] == pytest.approx(np.log(1 + 2))
    assert row["reasons"] == []


# --- recommended items


def test_ties_go_to_the_smaller_item_row(make_histories):
    histories = make_histories({"ann": "a", "bob": "dcb", "cid": "bcd", "eve": "e"})
    assert items_by_user(table_of(fitted(PopularityConfig(), histories), histories, [0], k=3))["ann"] == ["b", "c", "d"]


def test_many_ties_keep_the_smallest_item_rows(make_histories):
    letters = "abcdefghijklmnopqrstuvwxyz"
    histories = make_histories({"ann": "a", "bob": letters})
    assert (
        "".join(items_by_user(table_of(fitted(PopularityConfig(), histories), histories, [0], k=7))["ann"]) == "bcdefgh"
    )


def test_items_viewed_before_the_window_are_not_recommended(make_histories):
    # the window has two events; a, b and c are before it
    histories = make_histories({"ann": "abcde", "bob": "abcdefg"})
    for config in (ItemKNNConfig(max_length=2), SequenceConfig(**SMALL | {"max_length": 2})):
        model = fitted(config, histories)
        assert sorted(items_by_user(table_of(model, histories, [0], k=10))["ann"]) == ["f", "g"]


def test_a_user_who_has_viewed_everything_gets_no_recommendations(model, checkerboard, make_histories):
    histories = make_histories({"ann": "abcdefghijkl", "bob": "ab"})
    table = table_of(model, histories, k=20)
    assert set(items_by_user(table)) == {"bob"}
    assert len(items_by_user(table)["bob"]) == 10


def test_ranks_without_an_item_are_empty(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc"})
    result = recommend(fitted(PopularityConfig(), histories), histories, np.array([0]), config=ScoreConfig(k=5))
    assert result.items.tolist() == [[3, 0, 0, 0, 0]]
    assert np.isfinite(result.scores[0]).tolist() == [True, False, False, False, False]
    assert np.isnan(result.item_bias[0, 1:]).all()


def test_items_without_training_events_are_never_recommended(make_histories):
    view = make_histories({"ann": "abd", "bob": "bce"}).up_to(np.array([2, 2]))
    for config in (ItemKNNConfig(), PopularityConfig(), SequenceConfig(**SMALL)):
        table = table_of(fitted(config, view), view, k=10, filter_viewed=False)
        assert set(table["item_id"].to_pylist()) == {"a", "b", "c"}


def test_on_batch_receives_the_number_of_users_of_each_batch(checkerboard):
    n_users = []
    config = ScoreConfig(k=1, batch_size=50)
    recommend(
        fitted(ItemKNNConfig(), checkerboard.histories),
        checkerboard.histories,
        np.arange(72),
        config=config,
        on_batch=n_users.append,
    )
    assert n_users == [50, 22]


def test_no_requested_users_give_an_empty_table(model, checkerboard):
    assert table_of(model, checkerboard.histories, np.array([], dtype=np.int64)).num_rows == 0


@pytest.mark.parametrize("wrong", [{"k": 0}, {"n_reasons": -1}, {"batch_size": 0}, {"top": 5}])
def test_invalid_settings_raise_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScoreConfig(**wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_recommendations_on_cuda_equal_those_on_the_cpu(model, checkerboard):
    on_cpu = recommend(model, checkerboard.histories, np.arange(72), config=ScoreConfig(k=4))
    on_cuda = recommend(model.cuda(), checkerboard.histories, np.arange(72), config=ScoreConfig(k=4))
    np.testing.assert_allclose(on_cuda.scores, on_cpu.scores, rtol=1e-4, atol=1e-4)
    assert (on_cuda.items == on_cpu.items).mean() > 0.95  # near-ties may swap ranks
