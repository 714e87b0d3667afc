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
    found = recommend(model, histories, users, config=ScoreConfig(**settings))
    return to_table(found, histories, model_version="7", scored_at=NOON)


def lists(table) -> dict[str, list[str]]:
    frame = table.to_pandas()
    return frame.groupby("user_id")["item_id"].agg(list).to_dict()


# --- the table


def test_a_row_is_a_user_a_rank_an_item_and_its_reasons(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc", "cid": "bc"})
    model = build_model(ItemKNNConfig(shrinkage=0.0), 3)
    model.observe(histories)
    (row,) = table_of(model, histories, [0], k=5).to_pylist()
    a_c, b_c = 1 / (2 * 2) ** 0.5, 2 / (3 * 2) ** 0.5  # users in common over the roots of the counts
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


def test_who_has_no_history_gets_what_is_popular_and_the_table_says_so(model, make_histories):
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
def test_the_size_of_batches_changes_no_list(model, checkerboard, batch_size):
    one, other = (table_of(model, checkerboard.histories, k=4, batch_size=size) for size in (256, batch_size))
    for column in ("user_id", "rank", "item_id"):
        assert one[column].to_pylist() == other[column].to_pylist()
    np.testing.assert_allclose(one["score"].to_numpy(), other["score"].to_numpy(), rtol=1e-5, atol=1e-5)


def test_users_come_in_the_order_asked_for(model, checkerboard):
    table = table_of(model, checkerboard.histories, [5, 60, 3], k=1)
    assert table["user_id"].to_pylist() == checkerboard.histories.user_ids.ids[[5, 60, 3]].tolist()


def test_scores_fall_with_rank(model, checkerboard):
    frame = table_of(model, checkerboard.histories, k=6).to_pandas()
    falls = frame.groupby("user_id")["score"].diff().dropna()
    assert (falls <= 0).all()
    assert frame.groupby("user_id")["rank"].agg(list).map(lambda ranks: ranks == list(range(1, len(ranks) + 1))).all()


# --- the sum law, as published


def test_a_score_is_its_item_bias_and_what_every_event_added(model, checkerboard):
    found = recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=3, filter_viewed=False))
    batch = last_events(checkerboard.histories, np.arange(60), max_length=model.max_length)
    items = torch.from_numpy(found.items).long()
    with torch.inference_mode():
        parts = model.contributions(batch, items)
        expected = model.score(batch, items)
    np.testing.assert_allclose(found.scores, expected.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.scores, found.item_bias + parts.sum(1).numpy(), rtol=1e-4, atol=1e-4)


def test_reasons_that_cover_the_history_are_all_that_added(model, checkerboard):
    found = recommend(
        model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=3, n_reasons=8, filter_viewed=False)
    )
    batch = last_events(checkerboard.histories, np.arange(60), max_length=model.max_length)
    with torch.inference_mode():
        parts = model.contributions(batch, torch.from_numpy(found.items).long()).numpy()
    taken_away = parts.clip(max=0).sum(1)  # on the checkerboard no item is seen twice
    added = np.where(found.reason_items > 0, found.reason_contributions, 0)
    assert (added >= 0).all()
    np.testing.assert_allclose(found.scores, found.item_bias + added.sum(2) + taken_away, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.other_events, taken_away, rtol=1e-4, atol=1e-4)


def test_where_nothing_is_taken_away_the_reasons_and_the_bias_are_the_score(checkerboard):
    model = fitted(ItemKNNConfig(), checkerboard.histories)
    found = recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=3, n_reasons=6))
    filled = found.items > 0
    total = found.item_bias + np.where(found.reason_items > 0, found.reason_contributions, 0).sum(2)
    np.testing.assert_allclose(found.scores[filled], total[filled], rtol=1e-5)


def test_what_is_not_told_is_the_rest(make_histories):
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


def test_reasons_are_sorted_and_cut_to_the_largest(model, checkerboard):
    all_of_them, three = (
        recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=2, n_reasons=n)) for n in (6, 3)
    )
    given = all_of_them.reason_items > 0
    added = np.where(given, all_of_them.reason_contributions, 0)
    assert (added[given] > 0).all()
    assert (added[..., 1:] <= added[..., :-1]).all()
    np.testing.assert_array_equal(three.reason_items, all_of_them.reason_items[..., :3])


def test_repeated_events_of_an_item_are_one_reason(make_histories):
    histories = make_histories({"ann": "abaa", "bob": "abc", "cid": "cb", "dan": "ca"})
    model = build_model(ItemKNNConfig(shrinkage=0.0), 3)
    model.observe(histories)
    (row,) = table_of(model, histories, [0], k=1).to_pylist()
    # a: ann bob dan; b: ann bob cid; c: bob cid dan
    assert [reason["item_id"] for reason in row["reasons"]] == ["a", "b"]
    assert [reason["contribution"] for reason in row["reasons"]] == pytest.approx([3 * 2 / 3, 2 / 3])


def test_events_of_an_item_are_joined_with_their_shares_and_what_takes_away_is_no_reason():
    encoded = SimpleNamespace(weights=torch.tensor([[0.25, 0.5, 0.125, 0.125, 0.0]]))
    history = torch.tensor([[7, 2, 7, 4, 0]])
    contributions = torch.tensor([[[0.5, -1.0], [0.25, 2.0], [0.125, -1.0], [-3.0, 0.5], [0.0, 0.0]]])
    reasons = largest_reasons(encoded, history, contributions, m=3)
    assert reasons.items.tolist() == [[[7, 2, 0], [2, 4, 0]]]
    assert reasons.contributions[0, 0, :2].tolist() == [0.5 + 0.125, 0.25]
    assert reasons.contributions[0, 1, :2].tolist() == [2.0, 0.5]
    assert reasons.weights[0, 0, :2].tolist() == [0.25 + 0.125, 0.5]
    assert reasons.weights[0, 1, :2].tolist() == [0.5, 0.125]
    # events of an item are one before their sizes count: item 7 added .5 + .125, or took away 1 + 1
    explained_share = [(0.625 + 0.25) / (0.625 + 0.25 + 3), (2 + 0.5) / (2 + 0.5 + 2)]
    assert reasons.explained_share[0].tolist() == pytest.approx(explained_share)


def test_no_reasons_are_given_where_none_are_asked_for(model, checkerboard):
    assert set(map(len, table_of(model, checkerboard.histories, k=2, n_reasons=0)["reasons"].to_pylist())) == {0}


def test_a_model_without_exact_reasons_gives_none_and_still_scores(checkerboard):
    model = fitted(SequenceConfig(**SMALL, readout="last"), checkerboard.histories)
    table = table_of(model, checkerboard.histories, k=2)
    assert set(map(len, table["reasons"].to_pylist())) == {0}
    assert np.isfinite(table["score"].to_numpy()).all()
    assert table["other_events"].null_count == table["explained_share"].null_count == table.num_rows


@pytest.mark.parametrize("wrong", ["scores", "contributions"])
def test_a_score_that_is_not_the_sum_of_its_reasons_stops_everything(wrong, checkerboard, monkeypatch):
    model = fitted(SequenceConfig(**SMALL), checkerboard.histories)
    right = getattr(VectorEncoding, wrong)
    monkeypatch.setattr(VectorEncoding, wrong, lambda encoded, items=None: right(encoded, items) * 1.01)
    with pytest.raises(
        AdditivityError, match=r"a score must be the sum of its contributions.*, got \S+ for item row \d+"
    ):
        recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=2))


def test_the_sum_is_checked_where_no_reasons_are_asked_for(checkerboard, monkeypatch):
    model = fitted(ItemKNNConfig(), checkerboard.histories)
    bias = torch.zeros(13)
    bias[4] = 0.5  # one item of twelve, in the lists of half of the users
    monkeypatch.setattr(type(model), "item_bias", lambda model: bias)
    with pytest.raises(AdditivityError, match="item row 4"):
        recommend(model, checkerboard.histories, np.arange(60), config=ScoreConfig(k=2, n_reasons=0))


def test_popularity_has_its_score_from_the_item_alone(make_histories):
    histories = make_histories({"ann": "a", "bob": "abb"})
    model = fitted(PopularityConfig(), histories)
    (row,) = table_of(model, histories, [0]).to_pylist()
    assert row["score"] == row["item_bias"] == pytest.approx(np.log(1 + 2))
    assert row["reasons"] == []


# --- who gets what


def test_among_equal_scores_the_smaller_row_wins(make_histories):
    histories = make_histories({"ann": "a", "bob": "dcb", "cid": "bcd", "eve": "e"})
    assert lists(table_of(fitted(PopularityConfig(), histories), histories, [0], k=3))["ann"] == ["b", "c", "d"]


def test_many_equal_scores_are_cut_at_the_smallest_rows(make_histories):
    letters = "abcdefghijklmnopqrstuvwxyz"
    histories = make_histories({"ann": "a", "bob": letters})
    assert "".join(lists(table_of(fitted(PopularityConfig(), histories), histories, [0], k=7))["ann"]) == "bcdefgh"


def test_what_was_seen_long_ago_is_not_recommended(make_histories):
    # the model reads two events; a, b and c lie before them
    histories = make_histories({"ann": "abcde", "bob": "abcdefg"})
    for config in (ItemKNNConfig(max_length=2), SequenceConfig(**SMALL | {"max_length": 2})):
        model = fitted(config, histories)
        assert sorted(lists(table_of(model, histories, [0], k=10))["ann"]) == ["f", "g"]


def test_who_has_seen_everything_gets_nothing(model, checkerboard, make_histories):
    histories = make_histories({"ann": "abcdefghijkl", "bob": "ab"})
    table = table_of(model, histories, k=20)
    assert set(lists(table)) == {"bob"}
    assert len(lists(table)["bob"]) == 10


def test_places_that_can_not_be_filled_are_empty(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc"})
    found = recommend(fitted(PopularityConfig(), histories), histories, np.array([0]), config=ScoreConfig(k=5))
    assert found.items.tolist() == [[3, 0, 0, 0, 0]]
    assert np.isfinite(found.scores[0]).tolist() == [True, False, False, False, False]
    assert np.isnan(found.item_bias[0, 1:]).all()


def test_what_training_did_not_see_is_never_recommended(make_histories):
    view = make_histories({"ann": "abd", "bob": "bce"}).up_to(np.array([2, 2]))
    for config in (ItemKNNConfig(), PopularityConfig(), SequenceConfig(**SMALL)):
        table = table_of(fitted(config, view), view, k=10, filter_viewed=False)
        assert set(table["item_id"].to_pylist()) == {"a", "b", "c"}


def test_progress_is_told_user_by_user(checkerboard):
    told = []
    config = ScoreConfig(k=1, batch_size=50)
    recommend(
        fitted(ItemKNNConfig(), checkerboard.histories),
        checkerboard.histories,
        np.arange(72),
        config=config,
        on_batch=told.append,
    )
    assert told == [50, 22]


def test_nobody_asked_for_is_an_empty_table(model, checkerboard):
    assert table_of(model, checkerboard.histories, np.array([], dtype=np.int64)).num_rows == 0


@pytest.mark.parametrize("wrong", [{"k": 0}, {"n_reasons": -1}, {"batch_size": 0}, {"top": 5}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScoreConfig(**wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_lists_made_on_cuda_are_those_of_the_cpu(model, checkerboard):
    on_cpu = recommend(model, checkerboard.histories, np.arange(72), config=ScoreConfig(k=4))
    on_cuda = recommend(model.cuda(), checkerboard.histories, np.arange(72), config=ScoreConfig(k=4))
    np.testing.assert_allclose(on_cuda.scores, on_cpu.scores, rtol=1e-4, atol=1e-4)
    assert (on_cuda.items == on_cpu.items).mean() > 0.95  # near-ties may change places
