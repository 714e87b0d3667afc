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
    """Who buys tea buys a cup, who buys flour buys a pan; everyone has three events or more."""
    world = {
        "ann": ["tea", "cup", "spoon"],
        "bob": ["tea", "cup", "flour", "pan"],
        "cid": ["flour", "pan", "spoon"],
        "dan": ["tea", "cup", "pan"],
        "eve": ["tea", "spoon", "tea"],
    }
    rows = [(user, item, second) for user, items in world.items() for second, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])


@pytest.fixture
def neighbours(log) -> Recommender:
    return fit(log, model="item_knn", progress_bar=False)


@pytest.fixture
def sequence(log) -> Recommender:
    return fit(log, settings=SMALL, **QUICK)


# --- recommending


def test_all_known_users_get_their_lists(neighbours):
    frame = neighbours.recommend(k=2)
    reasons = ["source", "reasons", "explained_share", "other_events", "item_bias"]
    assert list(frame.columns) == ["user_id", "rank", "item_id", "score", *reasons]
    assert frame["user_id"].drop_duplicates().tolist() == ["ann", "bob", "cid", "dan", "eve"]
    assert set(frame["rank"]) <= {1, 2}


def test_some_users_get_theirs_in_the_order_asked_for(neighbours):
    assert neighbours.recommend(["dan", "ann"], k=1)["user_id"].tolist() == ["dan", "ann"]
    assert neighbours.recommend("dan", k=1)["user_id"].tolist() == ["dan"]
    assert neighbours.recommend([], k=1).empty


def test_what_a_user_has_is_not_recommended_unless_asked_for(neighbours):
    assert set(neighbours.recommend("ann")["item_id"]) == {"flour", "pan"}
    assert set(neighbours.recommend("ann", filter_viewed=False)["item_id"]) == {"tea", "cup", "spoon", "flour", "pan"}


def test_reasons_are_dicts_of_what_the_user_did(sequence):
    reasons = sequence.recommend("bob", filter_viewed=False)["reasons"]
    assert reasons.map(len).sum() > 0
    for reason in reasons.explode().dropna():
        assert reason.keys() == {"item_id", "contribution", "weight"}
        assert reason["item_id"] in {"tea", "cup", "flour", "pan"}
        assert reason["contribution"] > 0
        assert 0 <= reason["weight"] <= 1


def test_a_score_is_the_sum_of_its_row(sequence):
    frame = sequence.recommend(filter_viewed=False)
    told = frame["reasons"].map(lambda reasons: sum(reason["contribution"] for reason in reasons))
    np.testing.assert_allclose(frame["score"], told + frame["other_events"] + frame["item_bias"], rtol=1e-5, atol=1e-5)
    for row in frame.itertuples():  # the rest is what the events that are no reason made of it
        parts = sequence.explain(row.user_id, row.item_id).frame.groupby("item_id")["contribution"].sum()
        others = parts.drop([reason["item_id"] for reason in row.reasons])
        assert row.other_events == pytest.approx(others.sum(), abs=1e-4)


def test_a_model_without_attention_gives_no_weight(neighbours):
    assert {reason["weight"] for reason in neighbours.recommend("ann")["reasons"].explode().dropna()} == {None}


def test_a_visitor_is_recommended_from_a_list_of_items(neighbours):
    frame = neighbours.recommend(history=["tea"], k=1)
    assert frame["user_id"].tolist() == [ANONYMOUS_USER]
    assert frame["item_id"].tolist() == ["cup"]


def test_a_visitor_with_a_known_users_history_gets_the_known_users_list(sequence):
    known = sequence.recommend("bob", k=3, filter_viewed=False).drop(columns="user_id")
    visitor = sequence.recommend(history=["tea", "cup", "flour", "pan"], k=3, filter_viewed=False)
    pd.testing.assert_frame_equal(visitor.drop(columns="user_id"), known)


def test_items_of_a_visitor_that_are_unknown_are_ignored(sequence):
    clean = sequence.recommend(history=["tea", "cup"])
    pd.testing.assert_frame_equal(sequence.recommend(history=["hat", "tea", "fan", "cup"]), clean)


@pytest.mark.parametrize("history", [[], ["hat"]])
def test_a_visitor_of_whom_nothing_is_known_gets_the_items_best_on_their_own(sequence, history):
    frame = sequence.recommend(history=history, k=5)
    assert len(frame) == 5
    assert frame["reasons"].map(len).sum() == 0
    np.testing.assert_allclose(frame["score"], frame["item_bias"])


def test_who_has_everything_gets_an_empty_frame(neighbours):
    assert neighbours.recommend(history=["tea", "cup", "spoon", "flour", "pan"]).empty


# --- explaining


def test_an_explanation_splits_the_recommended_score(sequence):
    row = sequence.recommend("bob", k=1).iloc[0]
    explanation = sequence.explain("bob", row["item_id"])
    assert explanation.item_id == row["item_id"]
    assert explanation.score == pytest.approx(row["score"], abs=1e-5)
    assert explanation.frame["item_id"].tolist() == ["tea", "cup", "flour", "pan"]
    assert sequence.explain(item_id=row["item_id"], history=["tea", "cup", "flour", "pan"]).score == explanation.score


def test_the_last_state_recommends_and_refuses_to_explain(log):
    recommender = fit(log, settings=SMALL | {"readout": "last"}, **QUICK)
    assert recommender.recommend("ann")["reasons"].map(len).sum() == 0
    with pytest.raises(ReasonsError, match="readout='pooling'"):
        recommender.explain("ann", "pan")


@pytest.mark.parametrize("items", ["pan", ["pan"], np.array(["pan"]), pd.Series(["pan"])])
def test_one_item_or_several_are_explained_for_a_history(sequence, items):
    found = attnrec.explain(sequence, ["tea", "cup", "flour", "pan"], items)
    assert [each.item_id for each in found] == ["pan"]
    assert found[0].score == sequence.explain("bob", "pan").score


def test_several_items_are_explained_for_a_frame_of_one_user(sequence, log):
    found = attnrec.explain(sequence, log[log["user_id"] == "bob"], ["pan", "spoon"])
    known = [sequence.explain("bob", item_id) for item_id in ("pan", "spoon")]
    assert [each.score for each in found] == pytest.approx([each.score for each in known])
    pd.testing.assert_frame_equal(found[0].frame, known[0].frame)
    with pytest.raises(ValueError, match="a history must be of one user, got 5 users"):
        attnrec.explain(sequence, log, "pan")


@pytest.mark.parametrize("history", [[], ["hat"], pd.DataFrame({"item_id": [], "datetime": []})])
def test_without_a_known_history_everyones_liking_is_all_there_is(sequence, history):
    found = attnrec.explain(sequence, history, ["pan", "tea"])
    assert [each.score for each in found] == [each.item_bias for each in found]
    assert found.frame.empty
    assert found.frame.columns[0] == "explained_item_id"


def test_unknown_items_of_a_history_are_ignored(sequence):
    found = attnrec.explain(sequence, ["hat", "tea", "fan", "tea"], "pan")[0]
    assert found.frame["item_id"].tolist() == ["tea", "tea"]
    assert found.score == attnrec.explain(sequence, ["tea", "tea"], "pan")[0].score


def test_other_methods_are_asked_by_name(sequence, neighbours):
    history = ["tea", "cup"]
    effects = attnrec.explain(sequence, history, "pan", method="leave_one_out")[0]
    scores = [attnrec.explain(sequence, left, "pan")[0].score for left in (history, ["cup"], ["tea"])]
    assert effects.values.tolist() == pytest.approx([scores[0] - scores[1], scores[0] - scores[2]], abs=1e-5)
    # item-kNN is a plain sum: taking an event out takes away what it added
    added, taken = (neighbours.explain("bob", "spoon", method=method) for method in ("contribution", "leave_one_out"))
    assert taken.values.tolist() == pytest.approx(added.values.tolist(), abs=1e-6)


def test_popularity_counts_the_known_users(sequence, tmp_path):
    found = attnrec.explain(sequence, ["tea", "pan"], "cup", method="popularity")[0]
    assert found.values.tolist() == [5, 3]  # events of tea and of pan in the log
    alone = load_folder(sequence.save(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"got a model without it; call with_histories\(log\) first"):
        attnrec.explain(alone, ["tea"], "cup", method="popularity")
    assert len(attnrec.explain(alone, ["tea"], "cup", method="recency")) == 1


def test_titles_of_the_items_that_were_fitted_are_known(log, tmp_path):
    items = pd.DataFrame({"item_id": ["tea", "pan", "cup"], "title": ["Green tea", "A pan", ""]})
    recommender = fit(log, items=items, settings=SMALL, **QUICK)
    for known in (recommender, load_folder(recommender.save(tmp_path / "model"))):
        found = attnrec.explain(known, ["tea", "cup"], ["pan", "spoon"])
        assert [each.title for each in found] == ["A pan", "spoon"]
        assert dict(found[0].titles) == {"tea": "Green tea", "pan": "A pan"}
    assert recommender.explain("bob", "pan").title == "A pan"
    own = {"pan": "Pfanne"}
    assert attnrec.explain(recommender, ["tea"], "pan", titles=own)[0].title == "Pfanne"
    assert recommender.explain("bob", "pan", titles=own).titles == own  # and no other title


def test_items_outside_the_catalogue_and_no_items_are_refused(sequence):
    with pytest.raises(UnknownIdError, match="'hat' is not in the model's catalogue of 5 items"):
        attnrec.explain(sequence, ["tea"], ["pan", "hat"])
    with pytest.raises(ValueError, match="at least one item, got none"):
        attnrec.explain(sequence, ["tea"], [])
    with pytest.raises(ValueError, match="got the text 'tea'"):
        attnrec.explain(sequence, "tea", "pan")


# --- items


def test_similar_items_are_sorted_by_cosine_without_the_item_itself(sequence):
    frame = sequence.similar_items("tea", k=3)
    vectors = sequence.item_vectors()
    unit = vectors.div(np.linalg.norm(vectors, axis=1), axis=0)
    expected = (unit @ unit.loc["tea"]).drop("tea").sort_values(ascending=False).head(3)
    assert frame["item_id"].tolist() == expected.index.tolist()
    np.testing.assert_allclose(frame["similarity"], expected, atol=1e-5)


def test_more_similar_items_than_there_are_gives_all_others(sequence):
    assert set(sequence.similar_items("tea", k=99)["item_id"]) == {"cup", "spoon", "flour", "pan"}


def test_item_vectors_are_a_frame_by_item(sequence):
    frame = sequence.item_vectors()
    assert sorted(frame.index) == ["cup", "flour", "pan", "spoon", "tea"]
    assert frame.index.name == "item_id"
    assert frame.shape == (5, SMALL["dim"])


def test_a_model_without_vectors_says_so(neighbours):
    with pytest.raises(TypeError, match="item_knn has no item vectors"):
        neighbours.item_vectors()
    with pytest.raises(TypeError, match="item_knn has no item vectors"):
        neighbours.similar_items("tea")


# --- what is unknown


NO_ZOE = "user 'zoe' has no history here; check the id, or give a history"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda known: known.recommend("zoe"), NO_ZOE),
        (lambda known: known.recommend(["ann", "zoe"]), NO_ZOE),
        (lambda known: known.explain("zoe", "tea"), NO_ZOE),
        (lambda known: known.explain("ann", "hat"), "item 'hat' is not in the model's catalogue of 5 items"),
        (lambda known: known.similar_items("hat"), "item 'hat' is not in the model's catalogue of 5 items"),
    ],
)
def test_an_unknown_user_or_item_is_one_sentence(neighbours, ask, words):
    with pytest.raises(UnknownIdError) as caught:
        ask(neighbours)
    assert str(caught.value) == words
    assert isinstance(caught.value, KeyError)


# --- ids


def test_whole_number_ids_stay_whole_numbers(log, tmp_path):
    frame = log.assign(user_id=log["user_id"].map(lambda name: ord(name[0])), item_id=log["item_id"].map(len) * 10)
    recommender = fit(frame, settings=SMALL, **QUICK)
    listed = recommender.recommend([ord("a")], filter_viewed=False)
    assert pd.api.types.is_integer_dtype(listed["item_id"])
    assert pd.api.types.is_integer_dtype(listed["user_id"])
    assert all(isinstance(reason["item_id"], int | np.integer) for reason in listed["reasons"].explode().dropna())
    assert recommender.explain(ord("a"), 30).item_id == 30
    loaded = load_folder(recommender.save(tmp_path / "model"))
    again = loaded.recommend(history=[30, 50], filter_viewed=False)
    assert pd.api.types.is_integer_dtype(again["item_id"])
    assert (
        again["item_id"].tolist()
        == recommender.recommend(history=["30", "50"], filter_viewed=False)["item_id"].tolist()
    )


@pytest.mark.parametrize("user", [7, np.int64(7), "7"])
def test_one_user_may_be_given_alone_whatever_the_type_of_the_id(log, user):
    numbered = log.assign(user_id=log["user_id"].map({"ann": 7, "bob": 8, "cid": 9, "dan": 10, "eve": 11}))
    frame = fit(numbered, model="item_knn", progress_bar=False).recommend(user)
    assert set(frame["user_id"]) == {7}


# --- files and other users


def test_a_saved_model_recommends_the_same_to_the_same_histories(log, sequence, tmp_path):
    folder = sequence.save(tmp_path / "model")
    loaded = load_folder(folder).with_histories(log)
    pd.testing.assert_frame_equal(loaded.recommend(), sequence.recommend())
    assert loaded.metadata == sequence.metadata
    assert loaded.histories.content_hash == sequence.metadata["data"]


def test_a_saved_model_holds_no_user(log, sequence, tmp_path):
    folder = sequence.save(tmp_path / "model")
    # "event" is part of settings' names, and no user called eve
    written = [path.read_bytes().replace(b"event", b"") for path in folder.iterdir()]
    assert not any(name.encode() in content for content in written for name in log["user_id"].unique())


def test_a_model_is_not_saved_over_another(sequence, tmp_path):
    sequence.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="new folder"):
        sequence.save(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError):
        sequence.save(str(tmp_path / "empty"))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_folder(tmp_path / "nothing")


def test_a_model_loaded_alone_knows_no_user_but_serves_visitors(sequence, tmp_path):
    loaded = load_folder(Path(sequence.save(tmp_path / "model")))
    with pytest.raises(UnknownIdError, match="call with_histories"):
        loaded.recommend()
    assert not loaded.recommend(history=["tea"]).empty


def test_other_users_may_be_given_and_items_unknown_to_the_model_are_ignored(sequence):
    frame = pd.DataFrame({"user_id": ["zoe", "zoe", "yan"], "item_id": ["hat", "tea", "hat"], "datetime": [1, 2, 3]})
    other = sequence.with_histories(frame)
    assert sorted(other.recommend(k=1)["user_id"]) == ["yan", "zoe"]
    pd.testing.assert_frame_equal(
        other.recommend("zoe").drop(columns="user_id"), sequence.recommend(history=["tea"]).drop(columns="user_id")
    )
    with pytest.raises(UnknownIdError):
        other.recommend("ann")


# --- fitting


def test_fitting_twice_with_a_seed_gives_the_same_lists(log):
    one, two, other = (fit(log, settings=SMALL, seed=seed, **QUICK) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one.recommend(), two.recommend())
    assert not one.recommend()["score"].equals(other.recommend()["score"])
    assert one.metadata["seed"] == 3


def test_fitting_trains_without_the_last_events_and_recommends_from_all(log):
    # hat is bought once, as eve's last event: training can not have seen it
    log = pd.concat([log, pd.DataFrame([("eve", "hat", 9)], columns=log.columns)])
    recommender = fit(log, model="item_knn", progress_bar=False)
    assert not recommender.model.rankable[recommender.item_ids.row("hat")]
    assert recommender.histories.lengths.tolist() == [3, 4, 3, 3, 4]


def test_users_with_few_events_do_no_harm(log):
    log = pd.concat([log, pd.DataFrame([("fay", "tea", 1), ("gus", "cup", 1), ("gus", "pan", 2)], columns=log.columns)])
    assert set(fit(log, settings=SMALL, **QUICK).recommend(k=1)["user_id"]) >= {"ann", "fay", "gus"}


def test_a_log_of_short_histories_alone_is_fitted_without_validation(tiny_log):
    recommender = fit(tiny_log[tiny_log["user_id"] != "ann"], model="popularity", progress_bar=False)
    assert recommender.recommend("cid", k=5)["item_id"].tolist() == ["cup", "pan"]
    pairs = pd.DataFrame({"user_id": list("aabb"), "item_id": list("xyyx"), "datetime": [1, 2, 1, 2]})
    assert fit(pairs, settings=SMALL, **QUICK).metadata["epoch"] == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "oracle"}, "model must be one of .* got 'oracle'"),
        ({"settings": {"dims": 3}}, "dims"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_unknown_models_and_settings_are_refused(log, wrong, words):
    with pytest.raises(ValueError, match=words):
        fit(log, progress_bar=False, **wrong)


def test_a_window_far_longer_than_any_history_is_refused_before_training(log):
    with pytest.raises(ValueError, match="must not be more than twice the longest history, got 900"):
        fit(log, settings={"max_length": 900}, **QUICK)


def test_fitting_leaves_the_callers_random_state_alone(log):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(log, settings=SMALL, **QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_a_sequence_model_refuses_users_without_an_order(shop_recommender):
    frame = pd.DataFrame({"user_id": ["me"], "item_id": ["tea-010"]})
    with pytest.raises(ValueError, match="attnrec needs ordered histories, got a frame without datetime"):
        shop_recommender.with_histories(frame)


def test_a_history_given_as_a_list_has_no_dates(shop_recommender):
    known = shop_recommender.item_ids.ids[:3].tolist()
    assert shop_recommender.explain(item_id=known[0], history=known[1:]).frame["datetime"].isna().all()


def test_a_mistyped_setting_is_one_line_with_what_may_have_been_meant(tiny_log):
    with pytest.raises(ValueError, match=r"^epoch: unknown key; did you mean epochs\?$"):
        fit(tiny_log, epoch=1)
    with pytest.raises(ValueError, match=r"^dims: unknown key; did you mean dim\?$"):
        fit(tiny_log, settings={"dims": 1})


def test_a_history_is_a_list_and_not_a_text(shop_recommender):
    with pytest.raises(ValueError, match=r"got the text 'tea-010'; write \['tea-010'\]"):
        shop_recommender.recommend(history="tea-010")


def test_a_recommender_says_what_it_is_in_one_line(shop_recommender):
    assert "\n" not in repr(shop_recommender)
    assert "attnrec-pooling" in repr(shop_recommender)


def test_slips_of_a_first_call_are_told_with_what_to_do(tiny_log):
    with pytest.raises(ValueError, match="give the log a column datetime"):
        fit(tiny_log.rename(columns={"datetime": "time"}), progress_bar=False)
    with pytest.raises(ValueError, match="write model='sasrec'"):
        fit(tiny_log, settings={"kind": "sasrec"}, progress_bar=False)
    with pytest.raises(ValueError, match="must be a pandas frame, got str; read it first"):
        fit("log.csv", progress_bar=False)
    with pytest.raises(ValueError, match="explain needs what fit or load gave, got DataFrame"):
        explain(tiny_log, ["tea"], "cup")


def test_a_model_that_reads_types_of_events_says_so_where_there_are_none(tiny_log):
    log = tiny_log.assign(event="view")
    settings = {"dim": 16, "pooling_heads": 2, "max_length": 8, "event_types": True}
    recommender = fit(log, settings=settings, epochs=1, progress_bar=False)
    with pytest.raises(ValueError, match="give frames with the column event"):
        recommender.recommend(history=["tea"])


def test_types_of_events_mean_the_same_whatever_other_types_a_log_has(tiny_log, tmp_path):
    log = tiny_log.assign(event=["buy", "view", "buy", "view", "view", "buy", "view"])  # buy is 0, view is 1
    settings = {"dim": 16, "pooling_heads": 2, "max_length": 8, "event_types": True}
    fitted = fit(log, settings=settings, epochs=1, progress_bar=False)
    with torch.no_grad():
        fitted.model.context.types.weight.mul_(50)  # what an event is shall matter
    loaded = load_folder(fitted.save(tmp_path / "model"))
    assert loaded.model.event_names == ("buy", "view")
    expected = fitted.recommend(["ann"], k=2).set_index("item_id")["score"]
    more = pd.DataFrame([("eve", "tea", 1, "add")], columns=log.columns)  # add is 0, buy is 1, view is 2
    for recommender in (loaded.with_histories(log), loaded.with_histories(pd.concat([log, more]))):
        found = recommender.recommend(["ann"], k=2).set_index("item_id")["score"]
        pd.testing.assert_series_equal(found, expected, rtol=1e-5)
    views = log[(log["user_id"] == "ann") & (log["event"] == "view")]  # view would be 0
    best = fitted.with_histories(views).recommend(["ann"], k=1).iloc[0]
    why = explain(loaded, views[["item_id", "datetime", "event"]], best["item_id"])
    assert why[0].score == pytest.approx(best["score"], rel=1e-4)
