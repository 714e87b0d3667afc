import base64
import fnmatch
import hashlib
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from attnrec.dataset import Vocabulary, features_from_frame, histories_from_frame
from attnrec.models import build_model, model_config
from attnrec.recommender import Recommender
from attnrec.report import write_report
from attnrec.report.content import Limits, UserReasons, user_reasons
from attnrec.report.items import ItemDetails, item_details
from attnrec.report.page import PageFacts, build_page
from attnrec.report.selection import select_users
from attnrec.report.summary import summary_of
from attnrec.report.tables import faithfulness_rows, metric_rows
from attnrec.scoring.recommendations import ScoreConfig, recommend
from attnrec.scoring.tables import to_table
from attnrec.tracking.examples import fixed_users

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SMALL = {"dim": 16, "heads": 2, "layers": 1, "max_length": 12}
LETTERS = {
    "ann": "abcab",
    "bob": "bcd",
    "cid": "defg",
    "dot": "a",
    "eve": "ghijklmnopabcd",  # longer than the window of 12 events
    "fay": "efghij",
}


@pytest.fixture
def make_recommender(make_histories):
    """Make a recommender of a kind on the histories of LETTERS, with random weights."""

    def make(kind: str = "attnrec", world: dict[str, str] | None = None, **settings) -> Recommender:
        histories = make_histories(world or LETTERS)
        trained = {"attnrec": SMALL, "sasrec": SMALL, "narm": {"dim": 16, "max_length": 12}}.get(kind, {})
        torch.manual_seed(3)
        model = build_model(model_config(kind, trained | settings), histories.n_items)
        model.observe(histories)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.4)
        model.eval()
        model.refresh()
        return Recommender(model, histories.item_ids, histories)

    return make


def reasons_by_user(recommender, recommendations=None, *, users=None, **limits) -> dict[str, UserReasons]:
    recommendations = recommender.recommend(k=4) if recommendations is None else recommendations
    selected = select_users(recommendations, users=users)
    return {user.user_id: user for user in user_reasons(recommender, selected, limits=Limits(**limits))}


def names(recommender, rows) -> list[str]:
    return recommender.item_ids.decode(rows).tolist()


# --- contributions


@pytest.mark.parametrize("kind", ["attnrec", "item_knn", "popularity", "gat"])
def test_contributions_and_item_bias_sum_to_the_published_score(make_recommender, kind):
    recommender = make_recommender(kind)
    shown = recommender.recommend(k=4)
    for user_id, user in reasons_by_user(recommender, shown, events=3).items():
        mine = shown[shown.user_id == user_id]
        assert names(recommender, user.items) == mine.item_id.tolist()
        total = user.contributions.sum(0) + user.earlier_contributions + user.item_bias
        assert total == pytest.approx(mine.score.to_numpy(), abs=1e-5)
        assert user.scores == pytest.approx(total)


def test_the_latest_events_are_shown_and_the_others_are_summed(make_recommender):
    recommender = make_recommender()
    user = reasons_by_user(recommender, users=["eve"], events=3)["eve"]
    assert (user.n_events, user.n_read) == (14, 12)
    assert names(recommender, user.events) == ["b", "c", "d"]
    frame = recommender.explain("eve", names(recommender, user.items)[1]).frame
    assert user.contributions[:, 1] == pytest.approx(frame.contribution.to_numpy()[-3:])
    assert user.earlier_contributions[1] == pytest.approx(frame.contribution.to_numpy()[:-3].sum())
    assert user.attention == pytest.approx(frame.weight.to_numpy()[-3:])


def test_there_are_times_only_if_the_log_has_a_clock(make_recommender):
    recommender = make_recommender()
    assert reasons_by_user(recommender, users=["bob"])["bob"].times.tolist() == [0, 1, 2]
    frame = pd.DataFrame({"user_id": ["x", "x", "y"], "item_id": ["a", "b", "b"]})
    without_clock = histories_from_frame(frame).recode(recommender.item_ids)
    knn = Recommender(make_recommender("item_knn").model, recommender.item_ids, without_clock)
    assert reasons_by_user(knn, users=["x"])["x"].times is None


def test_event_types_are_kept(make_recommender):
    frame = pd.DataFrame({"user_id": ["x"] * 3, "item_id": list("abc"), "datetime": [1, 2, 3], "event": list("vpv")})
    recommender = make_recommender().with_histories(frame)
    assert reasons_by_user(recommender, events=2)["x"].event_types == ["p", "v"]


# --- ranks without an event


@pytest.mark.parametrize("kind", ["attnrec", "sasrec", "narm", "item_knn"])
def test_ranks_without_an_event_are_those_of_the_shortened_history(make_recommender, kind):
    recommender = make_recommender(kind)
    user = reasons_by_user(recommender, users=["fay"])["fay"]
    events = names(recommender, user.events)
    for event in range(len(events)):
        remaining = events[:event] + events[event + 1 :]
        ranked = recommender.recommend(history=remaining, k=100, filter_viewed=False)
        candidates = [item for item in ranked.item_id if item not in events]
        expected = [1 + candidates.index(item) for item in names(recommender, user.items)]
        assert user.ranks_without[event].tolist() == expected
    assert user.ranks.tolist() == [1, 2, 3, 4]
    if kind != "item_knn":
        assert (user.ranks_without != user.ranks).any(), "some ranks must change for this test"


def test_the_rank_in_a_plain_sum_is_that_of_the_score_minus_the_contribution(make_recommender):
    recommender = make_recommender(
        "item_knn", {"1": "ax", "2": "bx", "3": "cy", "4": "cy", "5": "zw", "me": "abc"}, shrinkage=0.0
    )
    user = reasons_by_user(recommender, users=["me"])["me"]
    assert names(recommender, user.items) == ["x", "y", "w", "z"]
    one, two = 1 / (2 * 2) ** 0.5, 2 / (3 * 2) ** 0.5  # common users over the roots of the counts
    assert user.contributions == pytest.approx(np.array([[one, 0, 0, 0], [one, 0, 0, 0], [0, two, 0, 0]]))
    assert user.scores == pytest.approx([2 * one, two, 0, 0])
    # without a or b, x scores less than y; without c, y scores 0 like w and z, of which w has the smallest row
    assert user.ranks_without.tolist() == [[2, 1, 3, 4], [2, 1, 3, 4], [1, 3, 2, 4]]


def test_only_important_and_latest_events_are_removed(make_recommender):
    recommender = make_recommender()
    all_removed = reasons_by_user(recommender, users=["eve"], counterfactual=20)["eve"]
    assert (all_removed.ranks_without > 0).all()
    some = reasons_by_user(recommender, users=["eve"], counterfactual=1)["eve"]
    removed = some.ranks_without.any(1)
    largest = np.abs(some.contributions).argmax(0)
    assert set(np.flatnonzero(removed)) == {11, *largest.tolist()}
    assert (some.ranks_without[removed] == all_removed.ranks_without[removed]).all()
    assert not reasons_by_user(recommender, users=["eve"], counterfactual=0)["eve"].ranks_without.any()


def test_without_exact_reasons_the_events_with_most_attention_are_removed(make_recommender):
    user = reasons_by_user(make_recommender("narm"), users=["eve"], counterfactual=2)["eve"]
    most = np.argsort(-user.attention)[:2]
    assert set(np.flatnonzero(user.ranks_without.any(1))) == {10, 11, *most.tolist()}


def test_removing_one_of_two_equal_events_keeps_the_other(make_recommender):
    recommender = make_recommender("item_knn", {"1": "ax", "2": "by", "me": "aab"}, shrinkage=0.0)
    user = reasons_by_user(recommender, users=["me"])["me"]
    assert names(recommender, user.items) == ["x", "y"]
    assert user.contributions[:, 0] == pytest.approx([user.scores[0] / 2, user.scores[0] / 2, 0])
    assert user.ranks_without.tolist() == [[1, 2], [1, 2], [1, 2]]  # x and y score the same: the smaller row is first


def test_among_equal_scores_the_smaller_row_ranks_first(make_recommender):
    recommender = make_recommender("popularity", {"1": "abcdef", "me": "c"})
    user = reasons_by_user(recommender, recommender.recommend(["me"], k=5))["me"]
    assert names(recommender, user.items) == list("abdef")
    assert user.ranks.tolist() == [1, 2, 3, 4, 5]
    assert user.ranks_without.tolist() == [[1, 2, 3, 4, 5]]


# --- users without a history, models without reasons


def test_a_user_without_history_is_scored_by_item_bias(make_recommender):
    recommender = make_recommender()
    bias = recommender.model.item_bias().detach().numpy()
    rows = recommender.item_ids.encode(["c", "a"])
    new = pd.DataFrame({"user_id": ["new"] * 2, "rank": [1, 2], "item_id": ["c", "a"], "score": bias[rows]})
    user = reasons_by_user(recommender, new)["new"]
    assert (user.n_events, len(user.events), user.contributions.shape) == (0, 0, (0, 2))
    assert user.scores == pytest.approx(bias[rows])
    assert user.ranks_without.shape == (0, 2)
    with pytest.raises(ValueError, match="come from another model or other histories"):
        reasons_by_user(recommender, new.assign(score=bias[rows] + 0.5))


def test_a_model_without_exact_reasons_has_attention_or_no_reasons(make_recommender):
    narm = reasons_by_user(make_recommender("narm"))["bob"]
    sasrec = reasons_by_user(make_recommender("sasrec", readout="last"))["bob"]
    assert narm.contributions is None
    assert narm.earlier_contributions is None
    assert narm.attention.sum() == pytest.approx(1)
    assert sasrec.contributions is None
    assert sasrec.attention is None
    assert sasrec.ranks_without.all()


# --- recommendations that do not belong to the model


@pytest.mark.parametrize("kind", ["attnrec", "narm"])
def test_scores_of_another_model_are_refused(make_recommender, kind):
    recommender = make_recommender(kind)
    shown = recommender.recommend(k=3)
    reasons_by_user(recommender, shown.assign(score=shown.score + 0.0005))
    with pytest.raises(ValueError, match="come from another model or other histories"):
        reasons_by_user(recommender, shown.assign(score=shown.score + 0.002 * shown.score.abs().clip(lower=1)))
    with pytest.raises(ValueError, match="come from another model or other histories"):
        reasons_by_user(recommender, shown.assign(score=np.nan))


def test_recommendations_from_longer_histories_are_refused(make_recommender, make_histories):
    recommender = make_recommender()
    shown = recommender.recommend(["bob"], k=3)
    shorter = make_histories(LETTERS | {"bob": "bc"}).recode(recommender.item_ids)
    with pytest.raises(ValueError, match="come from another model or other histories"):
        reasons_by_user(Recommender(recommender.model, recommender.item_ids, shorter), shown)


def test_items_of_the_history_are_refused_unless_filter_viewed_is_false(make_recommender):
    recommender = make_recommender()
    shown = recommender.recommend(["ann"], k=16, filter_viewed=False)
    with pytest.raises(ValueError, match=r"is in the history .*histories and filter_viewed that"):
        reasons_by_user(recommender, shown)
    user = reasons_by_user(recommender, shown, filter_viewed=False)["ann"]
    assert user.ranks.tolist() == list(range(1, 17))


def test_an_item_outside_the_catalogue_is_refused(make_recommender):
    shown = make_recommender().recommend(["ann"], k=1).assign(item_id="zebra")
    with pytest.raises(ValueError, match=r"got 'zebra' for 'ann', which is unknown to the model"):
        reasons_by_user(make_recommender(), shown)


def test_a_recommender_without_histories_is_refused(make_recommender):
    recommender = make_recommender()
    without_histories = Recommender(recommender.model, recommender.item_ids)
    with pytest.raises(ValueError, match="with_histories"):
        reasons_by_user(without_histories, recommender.recommend(k=1))


# --- selection of users


def test_users_with_the_lowest_hash_are_selected():
    ids = np.array([f"u{number}" for number in range(50)], dtype=object)
    table = pd.DataFrame({"user_id": ids, "rank": 1, "item_id": "a", "score": 0.0})
    selected = select_users(table, n_users=7)
    assert set(selected.user_ids) == set(ids[fixed_users(ids, n=7)])
    assert selected.n_users == 50
    shuffled = select_users(table.sample(frac=1, random_state=1), n_users=7)
    assert shuffled.user_ids == selected.user_ids
    assert select_users(table.iloc[:30], n_users=50).n_users == 30


def test_given_users_are_in_the_given_order_and_their_items_by_rank():
    rows = [("1", 2, "b"), ("2", 1, "c"), ("1", 1, "a"), ("3", 1, "a")]
    table = pd.DataFrame(rows, columns=["user_id", "rank", "item_id"]).assign(score=1.0)
    selected = select_users(table, users=[3, 1, 3])
    assert selected.user_ids == ["3", "1"]
    assert selected.rows.item_id.tolist() == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda table: table.drop(columns="score"), {}, "got a table without score"),
        (lambda table: table.iloc[:0], {}, "at least one user, got an empty table"),
        (lambda table: table, {"users": ["zoe"]}, "got 'zoe'"),
        (lambda table: table, {"users": []}, "got an empty list"),
        (lambda table: table, {"n_users": 0}, "n_users must be at least 1, got 0"),
        (lambda table: pd.concat([table, table]), {}, "got 'a' twice for 'ann'"),
        (lambda table: table.assign(model_version=["1", "2"]), {}, "got model_version '1' and '2'"),
    ],
)
def test_invalid_recommendations_are_refused(change, more, message):
    table = pd.DataFrame({"user_id": ["ann", "ann"], "rank": [1, 2], "item_id": ["a", "b"], "score": [2.0, 1.0]})
    with pytest.raises(ValueError, match=message):
        select_users(change(table), **more)


# --- items, metrics, faithfulness, summary


def test_titles_come_from_a_mapping_a_frame_or_the_recommender(make_recommender):
    recommender = make_recommender()
    frame = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["Apple", None, " "]})

    def titles_of(recommender: Recommender, **given) -> dict[str, str]:
        return dict(item_details(recommender, **given).titles)

    assert titles_of(recommender, titles=frame) == titles_of(recommender, items=frame) == {"a": "Apple"}
    assert titles_of(recommender, titles={"b": "Pear", "unknown": "Nothing"}, items=frame) == {"b": "Pear"}
    assert titles_of(recommender) == {}
    features = features_from_frame(frame.iloc[:1], recommender.item_ids)
    fitted = Recommender(recommender.model, recommender.item_ids, recommender.histories, features=features)
    assert titles_of(fitted) == titles_of(fitted, items=frame[["item_id"]]) == {"a": "Apple"}
    with pytest.raises(ValueError, match="item_id and title"):
        titles_of(recommender, titles=frame.rename(columns={"title": "name"}))
    with pytest.raises(ValueError, match="items need the column item_id, got"):
        titles_of(recommender, items=frame.rename(columns={"item_id": "id"}))


def test_categories_come_from_the_column_category_or_kind(make_recommender):
    recommender = make_recommender()
    frame = pd.DataFrame({"item_id": list("abc"), "kind": pd.Categorical(["pen", None, "soup"])})
    assert item_details(recommender, items=frame).categories == {"a": "pen", "c": "soup"}
    listed = frame.assign(category=[["x", "y"], [], ["z"]])
    assert item_details(recommender, items=listed).categories == {"a": "x, y", "c": "z"}


def test_only_https_and_data_images_are_loaded_and_the_policy_names_their_origins(make_recommender, tmp_path, caplog):
    recommender = make_recommender()
    urls = {
        "a": "https://img.shop.example/a.png",
        "b": "data:image/png;base64,AAAA",
        "c": "http://shop.example/c.png",
        "d": "https://x;script-src *//d.png",
        "e": "javascript:alert(1)",
        "f": None,
    }
    frame = pd.DataFrame({"item_id": list(urls), "image_url": list(urls.values())})
    details = item_details(recommender, items=frame)
    assert set(details.images) == {"a", "b"}
    assert "3 of 5 image_url values are not shown" in caplog.text
    assert details.image_sources == ["data:", "https://img.shop.example"]
    page = write_report(tmp_path / "page.html", recommender, recommender.recommend(k=3), items=frame).path.read_text()
    assert "img-src data: https://img.shop.example; " in page
    assert ["a", "", "", urls["a"]] in data_in(page)["items"]


def metrics_of(**values: tuple[float, float, float]) -> dict:
    """Metrics by model with one metric and its interval."""
    return {
        model: {"metrics": {"ndcg_at_10": value}, "intervals": {"ndcg_at_10": (low, high)}, "n_users": 1200}
        for model, (value, low, high) in values.items()
    }


@pytest.mark.parametrize(
    ("value", "headline", "detail", "mark"),
    [
        ((0.25, 0.2, 0.3), "2.5 \u00d7 item-kNN on NDCG@10, 1,200 users", "Better than item-kNN, the best", "better"),
        ((0.105, 0.1, 0.11), "1.05 \u00d7 item-kNN on NDCG@10, 1,200 users", "Not clearly different from", "similar"),
        ((0.05, 0.04, 0.06), "0.50 \u00d7 item-kNN on NDCG@10, 1,200 users", "Worse than item-kNN, the best", "worse"),
        ((2.0, 1.9, 2.1), "20 \u00d7 item-kNN on NDCG@10, 1,200 users", "Better than item-kNN, the best", "better"),
    ],
)
def test_the_headline_is_the_ratio_to_the_best_baseline(value, headline, detail, mark):
    metrics = metric_rows(metrics_of(model=value, popularity=(0.05, 0.04, 0.06), item_knn=(0.1, 0.09, 0.11)))
    summary = summary_of(metrics, None, exact=True, n_users=7)
    assert (summary["headline"], summary["mark"]) == (headline, mark)
    assert summary["detail"].startswith(detail)
    assert summary["figures"][0]["mark"] == mark
    assert summary["figures"][0]["comparison"] == "item-kNN (0.100)"


def test_a_summary_without_baselines_or_metrics_has_no_comparison():
    summary = summary_of(metric_rows({"model": {"ndcg_at_10": 0.25}}), None, exact=True, n_users=7)
    assert (summary["headline"], summary["detail"]) == ("NDCG@10 0.250", "There is no baseline to compare with.")
    zero = summary_of(
        metric_rows({"model": {"ndcg_at_10": 0.25}, "ease": {"ndcg_at_10": 0.0}}), None, exact=True, n_users=7
    )
    assert zero["headline"] == "NDCG@10 0.250"
    nothing = summary_of(None, None, exact=False, n_users=7)
    assert nothing["headline"] == ""
    assert [(figure["label"], figure["value"]) for figure in nothing["figures"]] == [
        ("Reasons", "Not exact"),
        ("Users with recommendations", "7"),
    ]


@pytest.mark.parametrize(
    ("pos_at_5", "value", "mark"),
    [((0.2, 0.1, 0.3), "Exact, faithful", "better"), ((0.4, 0.3, 0.5), "Exact, unclear", "similar"),
     ((0.9, 0.8, 1.0), "Exact, not faithful", "worse")],
)  # fmt: skip
def test_reasons_are_faithful_if_they_are_better_than_every_control(pos_at_5, value, mark):
    rows = [("contribution", True, False, *pos_at_5), ("random", False, True, 0.7, 0.6, 0.75)]
    rows.append(("recency", False, True, 0.5, 0.4, 0.6))
    columns = ["method", "exact", "control", "pos_at_5", "pos_at_5_low", "pos_at_5_high"]
    table = faithfulness_rows(pd.DataFrame(rows, columns=columns))
    reasons = summary_of(None, table, exact=True, n_users=7)["figures"][0]
    assert (reasons["value"], reasons["mark"]) == (value, mark)
    assert reasons["comparison"] == "recency, the best control (0.500)"


def test_metrics_have_cutoff_10_and_intervals():
    metrics = {
        "challenger": {
            "metrics": {"ndcg_at_5": 0.1, "ndcg_at_10": 0.123456, "gini_at_10": 0.5},
            "intervals": {"ndcg_at_10": (0.1, 0.2)},
            "n_users": 120,
        },
        "popularity": {"ndcg_at_10": float("nan")},
    }
    assert metric_rows(metrics) == {
        "models": ["challenger", "popularity"],
        "n_users": 120,
        "rows": [["ndcg_at_10", [0.12346, 0.1, 0.2], [None, None, None]], ["gini_at_10", [0.5, None, None], None]],
    }
    assert metric_rows({"one": {"ndcg_at_5": 0.5}})["rows"] == [["ndcg_at_5", [0.5, None, None]]]
    assert metric_rows(None) is None


def test_faithfulness_is_sorted_by_pos_at_5():
    table = pd.DataFrame(
        {
            "method": ["random", "contribution"],
            "exact": [False, True],
            "control": [True, False],
            "pos_at_5": [0.6, 0.25],
        }
    )
    rows = faithfulness_rows(table.assign(tau=[np.nan, 1.0]))
    assert rows == [
        {"method": "contribution", "exact": True, "control": False, "pos_at_5": 0.25, "tau": 1.0},
        {"method": "random", "exact": False, "control": True, "pos_at_5": 0.6, "tau": None},
    ]
    assert faithfulness_rows(None) is None
    with pytest.raises(ValueError, match="one row per method"):
        faithfulness_rows(table.drop(columns="pos_at_5"))
    only_tau = faithfulness_rows(table.drop(columns="pos_at_5").assign(tau=[0.0, 1.0]))
    assert [row["method"] for row in only_tau] == ["random", "contribution"]


# --- the file


def data_in(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def large_user(user_id: str, *, n_events: int = 200, k: int = 10, n_items: int = 5000) -> UserReasons:
    """Content of a user with many events and all values."""
    random = np.random.default_rng(int(user_id))
    return UserReasons(
        user_id=user_id,
        n_events=n_events,
        n_read=n_events,
        events=random.integers(1, n_items, n_events),
        times=random.integers(1_600_000_000, 1_700_000_000, n_events),
        event_types=["purchase"] * n_events,
        attention=random.random(n_events),
        items=random.permutation(np.arange(1, n_items))[:k],
        published_ranks=np.arange(1, k + 1),
        scores=random.normal(size=k),
        item_bias=random.normal(size=k),
        contributions=random.normal(size=(n_events, k)),
        earlier_contributions=random.normal(size=k),
        ranks=np.arange(1, k + 1),
        ranks_without=random.integers(1, n_items, (n_events, k)),
    )


def test_a_page_has_as_many_users_as_fit():
    item_ids = Vocabulary([f"item-{number:05d}" for number in range(5000)], first=1)
    facts = PageFacts(
        "many", item_ids, details=ItemDetails({name: f"\u00e9tui {name} <b>" for name in item_ids.ids}), n_users=5000
    )
    consumed = []

    def users():
        for number in range(5000):
            consumed.append(number)
            yield large_user(str(number))

    page = build_page(facts, users(), max_bytes=2_000_000)
    assert 1_900_000 < len(page.text.encode()) <= 2_000_000
    assert page.n_users == len(data_in(page.text)["users"]) == len(consumed) - 1
    assert page.n_users < 5000


def test_all_users_are_on_the_page_if_they_fit():
    item_ids = Vocabulary([f"item-{number}" for number in range(50)], first=1)
    facts = PageFacts("few", item_ids, n_users=9)
    page = build_page(facts, (large_user(str(n), n_events=3, n_items=50) for n in range(4)), max_bytes=5_000_000)
    data = data_in(page.text)
    assert [user["id"] for user in data["users"]] == ["0", "1", "2", "3"]
    assert data["n_users"] == 9
    assert len({item_id for (item_id,) in data["items"]}) == len(data["items"]) <= 50


def test_a_page_too_small_for_one_user_is_refused():
    facts = PageFacts("none", Vocabulary([str(number) for number in range(5000)], first=1))
    with pytest.raises(ValueError, match="max_bytes must be large enough for one user, got 60,000; set it to"):
        build_page(facts, [large_user("1")], max_bytes=60_000)


def test_ids_and_titles_cannot_break_out_of_the_data(make_recommender):
    world = {"</script><script>alert(1)</script>": "ab", "me": "cd"}
    recommender = make_recommender("item_knn", world)
    shown = recommender.recommend(k=1)
    titles = dict.fromkeys("abcd", '<!--<script>"\u2028&')
    facts = PageFacts("</title><script>", recommender.item_ids, ItemDetails(titles))
    users = user_reasons(recommender, select_users(shown), limits=Limits())
    page = build_page(facts, users, max_bytes=5_000_000).text
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<!--" not in page
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in page
    data = data_in(page)
    assert {user["id"] for user in data["users"]} == set(world)
    assert data["items"][0][1] == titles["a"]


def test_the_policy_allows_only_this_style_and_this_script(make_recommender):
    recommender = make_recommender()
    users = user_reasons(recommender, select_users(recommender.recommend(k=2)), limits=Limits())
    page = build_page(PageFacts("t", recommender.item_ids), users, max_bytes=5_000_000).text
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["img-src"] == "'none'"
    for rule, tag in (("style-src", "style"), ("script-src", "script")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not re.search(r"https?://|@import|url\(|<link|\ssrc=|innerHTML\s*=|insertAdjacentHTML", page)


def test_a_second_run_writes_the_same_report(make_recommender, tmp_path):
    recommender = make_recommender()
    recommendations = recommend(recommender.model, recommender.histories, np.arange(6), config=ScoreConfig(k=3))
    table = to_table(recommendations, recommender.histories, model_version="shop/7", scored_at=NOON)
    report = write_report(tmp_path / "new" / "page.html", recommender, table, n_users=4, titles={"a": "Apple"})
    assert (report.n_users, report.n_published) == (4, 6)
    assert report.n_bytes == report.path.stat().st_size < 200_000
    data = data_in(report.path.read_text(encoding="utf-8"))
    assert (data["version"], data["scored_at"], data["n_users"]) == ("shop/7", "2026-01-01T12:00:00+00:00", 6)
    assert ["a", "Apple"] in data["items"]
    again = write_report(tmp_path / "again.html", recommender, table, n_users=4, titles={"a": "Apple"})
    assert again.path.read_bytes() == report.path.read_bytes()


def test_a_frame_and_a_published_table_show_the_same(make_recommender, tmp_path):
    recommender = make_recommender()
    frame = recommender.recommend(k=3)
    table = pa.Table.from_pandas(frame.drop(columns="reasons"), preserve_index=False)
    pages = [write_report(tmp_path / "page.html", recommender, it).path.read_text() for it in (frame, table)]
    assert data_in(pages[0]) == data_in(pages[1])


@pytest.mark.parametrize("limits", [{"max_events": 0}, {"max_counterfactual": -1}])
def test_invalid_limits_are_refused(make_recommender, tmp_path, limits):
    recommender = make_recommender()
    with pytest.raises(ValueError, match="max_events must be at least 1"):
        write_report(tmp_path / "page.html", recommender, recommender.recommend(k=1), **limits)


def test_the_files_of_the_page_are_installed_with_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["attnrec"]
    files = [path for path in (ROOT / "attnrec" / "report").iterdir() if path.is_file() and path.suffix != ".py"]
    assert {path.suffix for path in files} == {".html", ".css", ".js"}
    for path in files:
        assert any(fnmatch.fnmatch(f"report/{path.name}", pattern) for pattern in settings), path.name
