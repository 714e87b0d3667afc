"""`fit`, `load` and `Recommender`: training, recommending, explaining and saving with raw ids."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import attnrec
from attnrec.dataset import ANONYMOUS_USER
from attnrec.fitting import fit
from attnrec.models import ReasonsError
from attnrec.recommender import Recommender, UnknownIdError, explain, load_folder

QUICK = {"epochs": 2, "progress_bar": False, "device": "cpu"}
SMALL = {"dim": 8, "heads": 2, "pooling_heads": 2, "max_length": 10, "layers": 1}


@pytest.fixture
def log() -> pd.DataFrame:
    """Users who buy tea buy a cup, users who buy flour buy a pan; all users have at least three events."""
    events = {
        "ann": ["tea", "cup", "spoon"],
        "bob": ["tea", "cup", "flour", "pan"],
        "cid": ["flour", "pan", "spoon"],
        "dan": ["tea", "cup", "pan"],
        "eve": ["tea", "spoon", "tea"],
    }
    rows = [(user, item, second) for user, items in events.items() for second, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])


@pytest.fixture
def neighbours(log) -> Recommender:
    return fit(log, model="item_knn", progress_bar=False)


@pytest.fixture
def sequence(log) -> Recommender:
    return fit(log, settings=SMALL, **QUICK)


# --- recommending


def test_recommend_covers_all_users_by_default(neighbours):
    frame = neighbours.recommend(k=2)
    reason_columns = ["source", "reasons", "explained_share", "other_events", "item_bias"]
    assert list(frame.columns) == ["user_id", "rank", "item_id", "score", *reason_columns]
    assert frame["user_id"].drop_duplicates().tolist() == ["ann", "bob", "cid", "dan", "eve"]
    assert set(frame["rank"]) <= {1, 2}


def test_recommend_keeps_the_order_of_the_given_users(neighbours):
    assert neighbours.recommend(["dan", "ann"], k=1)["user_id"].tolist() == ["dan", "ann"]
    assert neighbours.recommend("dan", k=1)["user_id"].tolist() == ["dan"]
    assert neighbours.recommend([], k=1).empty


def test_items_of_the_history_are_recommended_only_without_filter_viewed(neighbours):
    assert set(neighbours.recommend("ann")["item_id"]) == {"flour", "pan"}
    assert set(neighbours.recommend("ann", filter_viewed=False)["item_id"]) == {"tea", "cup", "spoon", "flour", "pan"}


def test_reasons_are_dicts_of_items_of_the_history(sequence):
    reasons = sequence.recommend("bob", filter_viewed=False)["reasons"]
    assert reasons.map(len).sum() > 0
    for reason in reasons.explode().dropna():
        assert reason.keys() == {"item_id", "contribution", "weight"}
        assert reason["item_id"] in {"tea", "cup", "flour", "pan"}
        assert reason["contribution"] > 0
        assert 0 <= reason["weight"] <= 1


def test_a_score_is_the_sum_of_reasons_other_events_and_item_bias(sequence):
    frame = sequence.recommend(filter_viewed=False)
    explained = frame["reasons"].map(lambda reasons: sum(reason["contribution"] for reason in reasons))
    np.testing.assert_allclose(
        frame["score"], explained + frame["other_events"] + frame["item_bias"], rtol=1e-5, atol=1e-5
    )
    for row in frame.itertuples():  # other_events: contributions of the events that are not listed as reasons
        parts = sequence.explain(row.user_id, row.item_id).frame.groupby("item_id")["contribution"].sum()
        others = parts.drop([reason["item_id"] for reason in row.reasons])
        assert row.other_events == pytest.approx(others.sum(), abs=1e-4)


def test_reasons_of_a_model_without_attention_have_no_weight(neighbours):
    assert {reason["weight"] for reason in neighbours.recommend("ann")["reasons"].explode().dropna()} == {None}


def test_an_anonymous_history_is_a_list_of_items(neighbours):
    frame = neighbours.recommend(history=["tea"], k=1)
    assert frame["user_id"].tolist() == [ANONYMOUS_USER]
    assert frame["item_id"].tolist() == ["cup"]


def test_an_anonymous_history_gets_the_list_of_a_user_with_the_same_history(sequence):
    user = sequence.recommend("bob", k=3, filter_viewed=False).drop(columns="user_id")
    anonymous = sequence.recommend(history=["tea", "cup", "flour", "pan"], k=3, filter_viewed=False)
    pd.testing.assert_frame_equal(anonymous.drop(columns="user_id"), user)


def test_unknown_items_of_an_anonymous_history_are_ignored(sequence):
    clean = sequence.recommend(history=["tea", "cup"])
    pd.testing.assert_frame_equal(sequence.recommend(history=["hat", "tea", "fan", "cup"]), clean)


@pytest.mark.parametrize("history", [[], ["hat"]])
def test_an_empty_anonymous_history_gets_the_items_with_the_largest_bias(sequence, history):
    frame = sequence.recommend(history=history, k=5)
    assert len(frame) == 5
    assert frame["reasons"].map(len).sum() == 0
    np.testing.assert_allclose(frame["score"], frame["item_bias"])


def test_a_history_of_all_items_gets_no_recommendations(neighbours):
    assert neighbours.recommend(history=["tea", "cup", "spoon", "flour", "pan"]).empty


# --- explaining


def test_an_explanation_decomposes_the_recommended_score(sequence):
    row = sequence.recommend("bob", k=1).iloc[0]
    explanation = sequence.explain("bob", row["item_id"])
    assert explanation.item_id == row["item_id"]
    assert explanation.score == pytest.approx(row["score"], abs=1e-5)
    assert explanation.frame["item_id"].tolist() == ["tea", "cup", "flour", "pan"]
    assert sequence.explain(item_id=row["item_id"], history=["tea", "cup", "flour", "pan"]).score == explanation.score


def test_a_model_with_readout_last_recommends_but_raises_on_explain(log):
    recommender = fit(log, settings=SMALL | {"readout": "last"}, **QUICK)
    assert recommender.recommend("ann")["reasons"].map(len).sum() == 0
    with pytest.raises(ReasonsError, match=r"readout = 'last'.*train with readout = 'pooling'"):
        recommender.explain("ann", "pan")


@pytest.mark.parametrize("items", ["pan", ["pan"], np.array(["pan"]), pd.Series(["pan"])])
def test_items_to_explain_may_be_one_id_or_a_sequence(sequence, items):
    explanations = attnrec.explain(sequence, ["tea", "cup", "flour", "pan"], items)
    assert [each.item_id for each in explanations] == ["pan"]
    assert explanations[0].score == sequence.explain("bob", "pan").score


def test_a_history_to_explain_may_be_a_frame_of_one_user(sequence, log):
    explanations = attnrec.explain(sequence, log[log["user_id"] == "bob"], ["pan", "spoon"])
    expected = [sequence.explain("bob", item_id) for item_id in ("pan", "spoon")]
    assert [each.score for each in explanations] == pytest.approx([each.score for each in expected])
    pd.testing.assert_frame_equal(explanations[0].frame, expected[0].frame)
    with pytest.raises(ValueError, match="a history must belong to one user, got 5 users"):
        attnrec.explain(sequence, log, "pan")


@pytest.mark.parametrize("history", [[], ["hat"], pd.DataFrame({"item_id": [], "datetime": []})])
def test_the_score_of_an_empty_history_is_the_item_bias(sequence, history):
    explanations = attnrec.explain(sequence, history, ["pan", "tea"])
    assert [each.score for each in explanations] == [each.item_bias for each in explanations]
    assert explanations.frame.empty
    assert explanations.frame.columns[0] == "explained_item_id"


def test_unknown_items_of_a_history_are_ignored(sequence):
    explanation = attnrec.explain(sequence, ["hat", "tea", "fan", "tea"], "pan")[0]
    assert explanation.frame["item_id"].tolist() == ["tea", "tea"]
    assert explanation.score == attnrec.explain(sequence, ["tea", "tea"], "pan")[0].score


def test_other_attribution_methods_are_selected_by_name(sequence, neighbours):
    history = ["tea", "cup"]
    effects = attnrec.explain(sequence, history, "pan", method="leave_one_out")[0]
    scores = [attnrec.explain(sequence, left, "pan")[0].score for left in (history, ["cup"], ["tea"])]
    assert effects.values.tolist() == pytest.approx([scores[0] - scores[1], scores[0] - scores[2]], abs=1e-5)
    # item-kNN is a sum over events: removing an event reduces the score by its contribution
    contributions, leave_one_out = (
        neighbours.explain("bob", "spoon", method=method) for method in ("contribution", "leave_one_out")
    )
    assert leave_one_out.values.tolist() == pytest.approx(contributions.values.tolist(), abs=1e-6)


def test_the_popularity_method_counts_the_events_of_the_histories(sequence, tmp_path):
    explanation = attnrec.explain(sequence, ["tea", "pan"], "cup", method="popularity")[0]
    assert explanation.values.tolist() == [5, 3]  # events of tea and of pan in the log
    without_histories = load_folder(sequence.save(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"needs item counts of the log, got no log; call with_histories\(log\) first"):
        attnrec.explain(without_histories, ["tea"], "cup", method="popularity")
    assert len(attnrec.explain(without_histories, ["tea"], "cup", method="recency")) == 1


def test_titles_come_from_the_items_table_of_fit(log, tmp_path):
    items = pd.DataFrame({"item_id": ["tea", "pan", "cup"], "title": ["Green tea", "A pan", ""]})
    recommender = fit(log, items=items, settings=SMALL, **QUICK)
    for model in (recommender, load_folder(recommender.save(tmp_path / "model"))):
        explanations = attnrec.explain(model, ["tea", "cup"], ["pan", "spoon"])
        assert [each.title for each in explanations] == ["A pan", "spoon"]
        assert dict(explanations[0].titles) == {"tea": "Green tea", "pan": "A pan"}
    assert recommender.explain("bob", "pan").title == "A pan"
    titles = {"pan": "Pfanne"}
    assert attnrec.explain(recommender, ["tea"], "pan", titles=titles)[0].title == "Pfanne"
    assert recommender.explain("bob", "pan", titles=titles).titles == titles  # they replace all others


def test_explaining_an_unknown_item_or_no_item_raises(sequence):
    with pytest.raises(UnknownIdError, match="'hat' is not in the model's catalogue of 5 items"):
        attnrec.explain(sequence, ["tea"], ["pan", "hat"])
    with pytest.raises(ValueError, match="at least one item, got none"):
        attnrec.explain(sequence, ["tea"], [])
    with pytest.raises(ValueError, match="got the string 'tea'"):
        attnrec.explain(sequence, "tea", "pan")


# --- items


def test_similar_items_are_sorted_by_cosine_and_exclude_the_item_itself(sequence):
    frame = sequence.similar_items("tea", k=3)
    vectors = sequence.item_vectors()
    unit = vectors.div(np.linalg.norm(vectors, axis=1), axis=0)
    expected = (unit @ unit.loc["tea"]).drop("tea").sort_values(ascending=False).head(3)
    assert frame["item_id"].tolist() == expected.index.tolist()
    np.testing.assert_allclose(frame["similarity"], expected, atol=1e-5)


def test_a_k_larger_than_the_catalogue_gives_all_other_items(sequence):
    assert set(sequence.similar_items("tea", k=99)["item_id"]) == {"cup", "spoon", "flour", "pan"}


def test_item_vectors_have_one_row_per_item(sequence):
    frame = sequence.item_vectors()
    assert sorted(frame.index) == ["cup", "flour", "pan", "spoon", "tea"]
    assert frame.index.name == "item_id"
    assert frame.shape == (5, SMALL["dim"])


def test_item_vectors_of_a_model_without_vectors_raise(neighbours):
    with pytest.raises(TypeError, match="item_knn has no item vectors"):
        neighbours.item_vectors()
    with pytest.raises(TypeError, match="item_knn has no item vectors"):
        neighbours.similar_items("tea")


# --- unknown ids


NO_ZOE = "user 'zoe' has no history; check the id, or pass history=[...]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda recommender: recommender.recommend("zoe"), NO_ZOE),
        (lambda recommender: recommender.recommend(["ann", "zoe"]), NO_ZOE),
        (lambda recommender: recommender.explain("zoe", "tea"), NO_ZOE),
        (
            lambda recommender: recommender.explain("ann", "hat"),
            "item 'hat' is not in the model's catalogue of 5 items",
        ),
        (lambda recommender: recommender.similar_items("hat"), "item 'hat' is not in the model's catalogue of 5 items"),
    ],
)
def test_an_unknown_user_or_item_raises_a_readable_key_error(neighbours, call, message):
    with pytest.raises(UnknownIdError) as caught:
        call(neighbours)
    assert str(caught.value) == message
    assert isinstance(caught.value, KeyError)


# --- ids


def test_integer_ids_stay_integers(log, tmp_path):
    frame = log.assign(user_id=log["user_id"].map(lambda name: ord(name[0])), item_id=log["item_id"].map(len) * 10)
    recommender = fit(frame, settings=SMALL, **QUICK)
    recommendations = recommender.recommend([ord("a")], filter_viewed=False)
    assert pd.api.types.is_integer_dtype(recommendations["item_id"])
    assert pd.api.types.is_integer_dtype(recommendations["user_id"])
    assert all(
        isinstance(reason["item_id"], int | np.integer) for reason in recommendations["reasons"].explode().dropna()
    )
    assert recommender.explain(ord("a"), 30).item_id == 30
    loaded = load_folder(recommender.save(tmp_path / "model"))
    again = loaded.recommend(history=[30, 50], filter_viewed=False)
    assert pd.api.types.is_integer_dtype(again["item_id"])
    assert (
        again["item_id"].tolist()
        == recommender.recommend(history=["30", "50"], filter_viewed=False)["item_id"].tolist()
    )


@pytest.mark.parametrize("user", [7, np.int64(7), "7"])
def test_one_user_may_be_given_as_a_scalar_of_any_id_type(log, user):
    numbered = log.assign(user_id=log["user_id"].map({"ann": 7, "bob": 8, "cid": 9, "dan": 10, "eve": 11}))
    frame = fit(numbered, model="item_knn", progress_bar=False).recommend(user)
    assert set(frame["user_id"]) == {7}


# --- files and other users


def test_a_loaded_model_recommends_the_same_for_the_same_histories(log, sequence, tmp_path):
    folder = sequence.save(tmp_path / "model")
    loaded = load_folder(folder).with_histories(log)
    pd.testing.assert_frame_equal(loaded.recommend(), sequence.recommend())
    assert loaded.metadata == sequence.metadata
    assert loaded.histories.content_hash == sequence.metadata["data"]


def test_a_saved_model_contains_no_user_ids(log, sequence, tmp_path):
    folder = sequence.save(tmp_path / "model")
    # setting names contain "event", which is not the user "eve"
    contents = [path.read_bytes().replace(b"event", b"") for path in folder.iterdir()]
    assert not any(name.encode() in content for content in contents for name in log["user_id"].unique())


def test_saving_to_an_existing_folder_raises(sequence, tmp_path):
    sequence.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="save needs a new folder"):
        sequence.save(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError):
        sequence.save(str(tmp_path / "empty"))


def test_loading_a_folder_without_a_model_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_folder(tmp_path / "nothing")


def test_a_loaded_model_has_no_users_but_recommends_for_anonymous_histories(sequence, tmp_path):
    loaded = load_folder(Path(sequence.save(tmp_path / "model")))
    with pytest.raises(UnknownIdError, match="call with_histories"):
        loaded.recommend()
    assert not loaded.recommend(history=["tea"]).empty


def test_with_histories_replaces_the_users_and_ignores_unknown_items(sequence):
    frame = pd.DataFrame({"user_id": ["zoe", "zoe", "yan"], "item_id": ["hat", "tea", "hat"], "datetime": [1, 2, 3]})
    other = sequence.with_histories(frame)
    assert sorted(other.recommend(k=1)["user_id"]) == ["yan", "zoe"]
    pd.testing.assert_frame_equal(
        other.recommend("zoe").drop(columns="user_id"), sequence.recommend(history=["tea"]).drop(columns="user_id")
    )
    with pytest.raises(UnknownIdError):
        other.recommend("ann")


# --- fitting


def test_fitting_twice_with_the_same_seed_gives_the_same_recommendations(log):
    one, two, other = (fit(log, settings=SMALL, seed=seed, **QUICK) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one.recommend(), two.recommend())
    assert not one.recommend()["score"].equals(other.recommend()["score"])
    assert one.metadata["seed"] == 3


def test_fit_holds_out_the_last_events_in_training_and_recommends_from_all_events(log):
    # hat occurs once, as eve's last event, which is held out in training
    log = pd.concat([log, pd.DataFrame([("eve", "hat", 9)], columns=log.columns)])
    recommender = fit(log, model="item_knn", progress_bar=False)
    assert not recommender.model.rankable[recommender.item_ids.row("hat")]
    assert recommender.histories.lengths.tolist() == [3, 4, 3, 3, 4]


def test_users_with_one_or_two_events_are_accepted(log):
    log = pd.concat([log, pd.DataFrame([("fay", "tea", 1), ("gus", "cup", 1), ("gus", "pan", 2)], columns=log.columns)])
    assert set(fit(log, settings=SMALL, **QUICK).recommend(k=1)["user_id"]) >= {"ann", "fay", "gus"}


def test_a_log_of_only_short_histories_is_trained_without_validation(tiny_log):
    recommender = fit(tiny_log[tiny_log["user_id"] != "ann"], model="popularity", progress_bar=False)
    assert recommender.recommend("cid", k=5)["item_id"].tolist() == ["cup", "pan"]
    pairs = pd.DataFrame({"user_id": list("aabb"), "item_id": list("xyyx"), "datetime": [1, 2, 1, 2]})
    assert fit(pairs, settings=SMALL, **QUICK).metadata["epoch"] == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "oracle"}, "model must be one of .* got 'oracle'"),
        ({"settings": {"dims": 3}}, "dims"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_unknown_models_and_settings_raise(log, wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(log, progress_bar=False, **wrong)


def test_a_max_length_far_above_the_longest_history_raises_before_training(log):
    with pytest.raises(ValueError, match="max_length must be at most twice the longest history, got 900"):
        fit(log, settings={"max_length": 900}, **QUICK)


def test_fit_does_not_change_the_global_random_state(log):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(log, settings=SMALL, **QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_a_sequence_model_rejects_histories_without_an_order(shop_recommender):
    frame = pd.DataFrame({"user_id": ["me"], "item_id": ["tea-010"]})
    with pytest.raises(ValueError, match="attnrec needs ordered histories, got no datetime"):
        shop_recommender.with_histories(frame)


def test_explanations_of_a_list_history_have_no_dates(shop_recommender):
    items = shop_recommender.item_ids.ids[:3].tolist()
    assert shop_recommender.explain(item_id=items[0], history=items[1:]).frame["datetime"].isna().all()


def test_a_misspelt_setting_raises_with_a_suggestion(tiny_log):
    with pytest.raises(ValueError, match=r"^epoch: unknown key; did you mean epochs\?$"):
        fit(tiny_log, epoch=1)
    with pytest.raises(ValueError, match=r"^dims: unknown key; did you mean dim\?$"):
        fit(tiny_log, settings={"dims": 1})


def test_a_history_as_a_string_raises(shop_recommender):
    with pytest.raises(ValueError, match=r"got the string 'tea-010'; write \['tea-010'\]"):
        shop_recommender.recommend(history="tea-010")


def test_the_repr_is_one_line(shop_recommender):
    assert "\n" not in repr(shop_recommender)
    assert "attnrec-pooling" in repr(shop_recommender)


def test_common_mistakes_raise_errors_that_suggest_a_fix(tiny_log):
    with pytest.raises(ValueError, match="add a column datetime to the log"):
        fit(tiny_log.rename(columns={"datetime": "time"}), progress_bar=False)
    with pytest.raises(ValueError, match=r"pass it as fit\(..., model='sasrec'\)"):
        fit(tiny_log, settings={"kind": "sasrec"}, progress_bar=False)
    with pytest.raises(ValueError, match="must be a pandas DataFrame, got str; load the file first"):
        fit("log.csv", progress_bar=False)
    with pytest.raises(ValueError, match="explain needs a model from fit or load, got DataFrame"):
        explain(tiny_log, ["tea"], "cup")


def test_a_model_with_event_types_rejects_histories_without_them(tiny_log):
    log = tiny_log.assign(event="view")
    settings = {"dim": 16, "pooling_heads": 2, "max_length": 8, "event_types": True}
    recommender = fit(log, settings=settings, epochs=1, progress_bar=False)
    with pytest.raises(ValueError, match="add the column event to the frame"):
        recommender.recommend(history=["tea"])


def test_event_types_are_matched_by_name_not_by_code(tiny_log, tmp_path):
    log = tiny_log.assign(event=["buy", "view", "buy", "view", "view", "buy", "view"])  # buy is 0, view is 1
    settings = {"dim": 16, "pooling_heads": 2, "max_length": 8, "event_types": True}
    fitted = fit(log, settings=settings, epochs=1, progress_bar=False)
    with torch.no_grad():
        fitted.model.context.types.weight.mul_(50)  # make event types matter
    loaded = load_folder(fitted.save(tmp_path / "model"))
    assert loaded.model.event_names == ("buy", "view")
    expected = fitted.recommend(["ann"], k=2).set_index("item_id")["score"]
    more = pd.DataFrame([("eve", "tea", 1, "add")], columns=log.columns)  # add is 0, buy is 1, view is 2
    for recommender in (loaded.with_histories(log), loaded.with_histories(pd.concat([log, more]))):
        scores = recommender.recommend(["ann"], k=2).set_index("item_id")["score"]
        pd.testing.assert_series_equal(scores, expected, rtol=1e-5)
    views = log[(log["user_id"] == "ann") & (log["event"] == "view")]  # view would be 0
    best = fitted.with_histories(views).recommend(["ann"], k=1).iloc[0]
    why = explain(loaded, views[["item_id", "datetime", "event"]], best["item_id"])
    assert why[0].score == pytest.approx(best["score"], rel=1e-4)
