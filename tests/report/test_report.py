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
from attnrec.report.page import Facts, build_page
from attnrec.report.selection import published
from attnrec.report.tables import faithfulness_rows, metric_rows, titles_of
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
    "eve": "ghijklmnopabcd",  # longer than the window of 12
    "fay": "efghij",
}


@pytest.fixture
def knows(make_histories):
    """A recommender of some kind with the letters' histories; one that learns has weights drawn by a seed."""

    def make(kind: str = "attnrec", world: dict[str, str] | None = None, **settings) -> Recommender:
        histories = make_histories(world or LETTERS)
        learned = {"attnrec": SMALL, "sasrec": SMALL, "narm": {"dim": 16, "max_length": 12}}.get(kind, {})
        torch.manual_seed(3)
        model = build_model(model_config(kind, learned | settings), histories.n_items)
        model.observe(histories)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.4)
        model.eval()
        model.refresh()
        return Recommender(model, histories.item_ids, histories)

    return make


def gathered(recommender, recommendations=None, *, users=None, **limits) -> dict[str, UserReasons]:
    recommendations = recommender.recommend(k=4) if recommendations is None else recommendations
    table = select_users(recommendations, users=users)
    return {found.user_id: found for found in user_reasons(recommender, table, limits=Limits(**limits))}


def names(recommender, rows) -> list[str]:
    return recommender.item_ids.decode(rows).tolist()


# --- contributions


@pytest.mark.parametrize("kind", ["attnrec", "item_knn", "popularity", "gat"])
def test_what_is_shown_adds_up_to_the_published_score(knows, kind):
    recommender = knows(kind)
    shown = recommender.recommend(k=4)
    for user_id, user in gathered(recommender, shown, events=3).items():
        mine = shown[shown.user_id == user_id]
        assert names(recommender, user.items) == mine.item_id.tolist()
        total = user.contributions.sum(0) + user.earlier + user.item_bias
        assert total == pytest.approx(mine.score.to_numpy(), abs=1e-5)
        assert user.scores == pytest.approx(total)


def test_the_latest_events_are_shown_and_the_others_are_one_sum(knows):
    recommender = knows()
    user = gathered(recommender, users=["eve"], events=3)["eve"]
    assert (user.n_events, user.n_read) == (14, 12)
    assert names(recommender, user.events) == ["b", "c", "d"]
    frame = recommender.explain("eve", names(recommender, user.items)[1]).frame
    assert user.contributions[:, 1] == pytest.approx(frame.contribution.to_numpy()[-3:])
    assert user.earlier[1] == pytest.approx(frame.contribution.to_numpy()[:-3].sum())
    assert user.shares == pytest.approx(frame.weight.to_numpy()[-3:])


def test_times_are_told_only_where_there_is_a_clock(knows):
    recommender = knows()
    assert gathered(recommender, users=["bob"])["bob"].times.tolist() == [0, 1, 2]
    frame = pd.DataFrame({"user_id": ["x", "x", "y"], "item_id": ["a", "b", "b"]})
    without_clock = histories_from_frame(frame).recode(recommender.item_ids)
    knn = Recommender(knows("item_knn").model, recommender.item_ids, without_clock)
    assert gathered(knn, users=["x"])["x"].times is None


def test_kinds_of_events_come_along(knows):
    frame = pd.DataFrame({"user_id": ["x"] * 3, "item_id": list("abc"), "datetime": [1, 2, 3], "event": list("vpv")})
    recommender = knows().with_histories(frame)
    assert gathered(recommender, events=2)["x"].kinds == ["p", "v"]


# --- what would be without an event


@pytest.mark.parametrize("kind", ["attnrec", "sasrec", "narm", "item_knn"])
def test_ranks_without_an_event_are_those_of_the_shortened_history(knows, kind):
    recommender = knows(kind)
    user = gathered(recommender, users=["fay"])["fay"]
    events = names(recommender, user.events)
    for event in range(len(events)):
        left = events[:event] + events[event + 1 :]
        found = recommender.recommend(history=left, k=100, filter_viewed=False)
        standing = [item for item in found.item_id if item not in events]  # what was seen stays out
        expected = [1 + standing.index(item) for item in names(recommender, user.items)]
        assert user.ranks_without[event].tolist() == expected
    assert user.ranks.tolist() == [1, 2, 3, 4]
    if kind != "item_knn":
        assert (user.ranks_without != user.ranks).any(), "a world in which nothing moves tests nothing"


def test_in_a_plain_sum_an_item_stands_where_its_score_less_the_contribution_puts_it(knows):
    recommender = knows("item_knn", {"1": "ax", "2": "bx", "3": "cy", "4": "cy", "5": "zw", "me": "abc"}, shrinkage=0.0)
    user = gathered(recommender, users=["me"])["me"]
    assert names(recommender, user.items) == ["x", "y", "w", "z"]
    one, two = 1 / (2 * 2) ** 0.5, 2 / (3 * 2) ** 0.5  # users in common over the roots of the counts
    assert user.contributions == pytest.approx(np.array([[one, 0, 0, 0], [one, 0, 0, 0], [0, two, 0, 0]]))
    assert user.scores == pytest.approx([2 * one, two, 0, 0])
    # without a or b, x has less than y; without c, y has nothing, as w and z have, and w is the first row of them
    assert user.ranks_without.tolist() == [[2, 1, 3, 4], [2, 1, 3, 4], [1, 3, 2, 4]]


def test_only_events_that_matter_and_the_latest_are_tried(knows):
    recommender = knows()
    all_tried = gathered(recommender, users=["eve"], counterfactual=20)["eve"]
    assert (all_tried.ranks_without > 0).all()
    some = gathered(recommender, users=["eve"], counterfactual=1)["eve"]
    tried = some.ranks_without.any(1)
    largest = np.abs(some.contributions).argmax(0)
    assert set(np.flatnonzero(tried)) == {11, *largest.tolist()}
    assert (some.ranks_without[tried] == all_tried.ranks_without[tried]).all()
    assert not gathered(recommender, users=["eve"], counterfactual=0)["eve"].ranks_without.any()


def test_the_most_attended_events_are_tried_where_there_are_no_exact_reasons(knows):
    user = gathered(knows("narm"), users=["eve"], counterfactual=2)["eve"]
    most = np.argsort(-user.shares)[:2]
    assert set(np.flatnonzero(user.ranks_without.any(1))) == {10, 11, *most.tolist()}


def test_taking_one_of_two_equal_events_out_leaves_the_other(knows):
    recommender = knows("item_knn", {"1": "ax", "2": "by", "me": "aab"}, shrinkage=0.0)
    user = gathered(recommender, users=["me"])["me"]
    assert names(recommender, user.items) == ["x", "y"]
    assert user.contributions[:, 0] == pytest.approx([user.scores[0] / 2, user.scores[0] / 2, 0])
    assert user.ranks_without.tolist() == [[1, 2], [1, 2], [1, 2]]  # x and y are as good then: the smaller row is first


def test_among_equal_scores_the_smaller_row_comes_first(knows):
    recommender = knows("popularity", {"1": "abcdef", "me": "c"})
    user = gathered(recommender, recommender.recommend(["me"], k=5))["me"]
    assert names(recommender, user.items) == list("abdef")
    assert user.ranks.tolist() == [1, 2, 3, 4, 5]
    assert user.ranks_without.tolist() == [[1, 2, 3, 4, 5]]


# --- users without a history, models without reasons


def test_who_has_no_history_is_scored_by_what_everyone_likes(knows):
    recommender = knows()
    bias = recommender.model.item_bias().detach().numpy()
    rows = recommender.item_ids.encode(["c", "a"])
    new = pd.DataFrame({"user_id": ["new"] * 2, "rank": [1, 2], "item_id": ["c", "a"], "score": bias[rows]})
    user = gathered(recommender, new)["new"]
    assert (user.n_events, len(user.events), user.contributions.shape) == (0, 0, (0, 2))
    assert user.scores == pytest.approx(bias[rows])
    assert user.ranks_without.shape == (0, 2)
    with pytest.raises(ValueError, match="another model or other histories"):
        gathered(recommender, new.assign(score=bias[rows] + 0.5))


def test_a_model_without_exact_reasons_has_attention_or_nothing(knows):
    narm = gathered(knows("narm"))["bob"]
    sasrec = gathered(knows("sasrec", readout="last"))["bob"]
    assert narm.contributions is None
    assert narm.earlier is None
    assert narm.shares.sum() == pytest.approx(1)
    assert sasrec.contributions is None
    assert sasrec.shares is None
    assert sasrec.ranks_without.all()


# --- recommendations that do not belong to the model


@pytest.mark.parametrize("kind", ["attnrec", "narm"])
def test_scores_of_another_model_are_refused(knows, kind):
    recommender = knows(kind)
    shown = recommender.recommend(k=3)
    gathered(recommender, shown.assign(score=shown.score + 0.0005))
    with pytest.raises(ValueError, match="made by another model or other histories"):
        gathered(recommender, shown.assign(score=shown.score + 0.002 * shown.score.abs().clip(lower=1)))
    with pytest.raises(ValueError, match="made by another model or other histories"):
        gathered(recommender, shown.assign(score=np.nan))


def test_recommendations_from_longer_histories_are_refused(knows, make_histories):
    recommender = knows()
    shown = recommender.recommend(["bob"], k=3)
    shorter = make_histories(LETTERS | {"bob": "bc"}).recode(recommender.item_ids)
    with pytest.raises(ValueError, match="made by another model or other histories"):
        gathered(Recommender(recommender.model, recommender.item_ids, shorter), shown)


def test_seen_items_are_refused_unless_they_may_be_recommended(knows):
    recommender = knows()
    shown = recommender.recommend(["ann"], k=16, filter_viewed=False)
    with pytest.raises(ValueError, match=r"is in the history .*filter_viewed as it was"):
        gathered(recommender, shown)
    user = gathered(recommender, shown, filter_viewed=False)["ann"]
    assert user.ranks.tolist() == list(range(1, 17))


def test_an_item_outside_the_catalogue_is_refused(knows):
    shown = knows().recommend(["ann"], k=1).assign(item_id="zebra")
    with pytest.raises(ValueError, match=r"got 'zebra' for 'ann', which the model does not know"):
        gathered(knows(), shown)


def test_a_model_without_histories_is_refused(knows):
    recommender = knows()
    alone = Recommender(recommender.model, recommender.item_ids)
    with pytest.raises(ValueError, match="with_histories"):
        gathered(alone, recommender.recommend(k=1))


# --- which users


def test_users_are_those_whose_ids_hash_lowest():
    ids = np.array([f"u{number}" for number in range(50)], dtype=object)
    table = pd.DataFrame({"user_id": ids, "rank": 1, "item_id": "a", "score": 0.0})
    found = select_users(table, n_users=7)
    assert set(found.user_ids) == set(ids[fixed_users(ids, n=7)])
    assert found.n_users == 50
    shuffled = select_users(table.sample(frac=1, random_state=1), n_users=7)
    assert shuffled.user_ids == found.user_ids
    assert select_users(table.iloc[:30], n_users=50).n_users == 30


def test_given_users_come_in_their_order_and_places_by_rank():
    rows = [("1", 2, "b"), ("2", 1, "c"), ("1", 1, "a"), ("3", 1, "a")]
    table = pd.DataFrame(rows, columns=["user_id", "rank", "item_id"]).assign(score=1.0)
    found = select_users(table, users=[3, 1, 3])
    assert found.user_ids == ["3", "1"]
    assert found.rows.item_id.tolist() == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda table: table.drop(columns="score"), {}, "got none called score"),
        (lambda table: table.iloc[:0], {}, "at least one user"),
        (lambda table: table, {"users": ["zoe"]}, "got 'zoe'"),
        (lambda table: table, {"users": []}, "got an empty list"),
        (lambda table: table, {"n_users": 0}, "n_users = 0"),
        (lambda table: pd.concat([table, table]), {}, "got 'a' twice for 'ann'"),
        (lambda table: table.assign(model_version=["1", "2"]), {}, "got model_version '1' and '2'"),
    ],
)
def test_tables_that_cannot_be_shown_are_refused(change, more, message):
    table = pd.DataFrame({"user_id": ["ann", "ann"], "rank": [1, 2], "item_id": ["a", "b"], "score": [2.0, 1.0]})
    with pytest.raises(ValueError, match=message):
        select_users(change(table), **more)


# --- titles, metrics, faithfulness


def test_titles_come_from_a_mapping_a_frame_or_the_recommender(knows):
    recommender = knows()
    frame = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["Apple", None, " "]})
    assert titles_of(frame, recommender) == {"a": "Apple"}
    assert titles_of({"b": "Pear", "unknown": "Nothing"}, recommender) == {"b": "Pear"}
    assert titles_of(None, recommender) == {}
    features = features_from_frame(frame.iloc[:1], recommender.item_ids)
    fitted = Recommender(recommender.model, recommender.item_ids, recommender.histories, features=features)
    assert titles_of(None, fitted) == {"a": "Apple"}
    with pytest.raises(ValueError, match="item_id and title"):
        titles_of(frame.rename(columns={"title": "name"}), recommender)


def test_metrics_are_shown_at_ten_with_their_intervals():
    metrics = {
        "challenger": {
            "metrics": {"ndcg_at_5": 0.1, "ndcg_at_10": 0.123456, "gini_at_10": 0.5},
            "intervals": {"ndcg_at_10": (0.1, 0.2)},
        },
        "popularity": {"ndcg_at_10": float("nan")},
    }
    assert metric_rows(metrics) == {
        "models": ["challenger", "popularity"],
        "rows": [["ndcg_at_10", [0.12346, 0.1, 0.2], [None, None, None]], ["gini_at_10", [0.5, None, None], None]],
    }
    assert metric_rows({"one": {"ndcg_at_5": 0.5}})["rows"] == [["ndcg_at_5", [0.5, None, None]]]
    assert metric_rows(None) is None


def test_faithfulness_has_the_truest_method_first():
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


def standing_in(user_id: str, *, n_events: int = 200, k: int = 10, n_items: int = 5000) -> UserReasons:
    """A user as large as they come, with every number there is."""
    random = np.random.default_rng(int(user_id))
    return UserReasons(
        user_id=user_id,
        n_events=n_events,
        n_read=n_events,
        events=random.integers(1, n_items, n_events),
        times=random.integers(1_600_000_000, 1_700_000_000, n_events),
        kinds=["purchase"] * n_events,
        shares=random.random(n_events),
        items=random.permutation(np.arange(1, n_items))[:k],
        places=np.arange(1, k + 1),
        scores=random.normal(size=k),
        item_bias=random.normal(size=k),
        contributions=random.normal(size=(n_events, k)),
        earlier=random.normal(size=k),
        ranks=np.arange(1, k + 1),
        ranks_without=random.integers(1, n_items, (n_events, k)),
    )


def test_a_page_is_never_larger_than_asked_and_takes_no_more_users_than_fit():
    item_ids = Vocabulary([f"item-{number:05d}" for number in range(5000)], first=1)
    facts = Facts("many", item_ids, titles={name: f"\u00e9tui {name} <b>" for name in item_ids.ids}, n_users=5000)
    taken = []

    def users():
        for number in range(5000):
            taken.append(number)
            yield standing_in(str(number))

    page = build_page(facts, users(), max_bytes=2_000_000)
    assert 1_900_000 < len(page.text.encode()) <= 2_000_000
    assert page.n_users == len(data_in(page.text)["users"]) == len(taken) - 1
    assert page.n_users < 5000


def test_all_users_come_where_there_is_room():
    item_ids = Vocabulary([f"item-{number}" for number in range(50)], first=1)
    facts = Facts("few", item_ids, n_users=9)
    page = build_page(facts, (standing_in(str(n), n_events=3, n_items=50) for n in range(4)), max_bytes=5_000_000)
    data = data_in(page.text)
    assert [user["id"] for user in data["users"]] == ["0", "1", "2", "3"]
    assert data["n_users"] == 9
    assert len({item_id for (item_id,) in data["items"]}) == len(data["items"]) <= 50


def test_a_page_without_room_for_one_user_is_refused():
    facts = Facts("none", Vocabulary([str(number) for number in range(5000)], first=1))
    with pytest.raises(ValueError, match="max_bytes = 60,000; it needs"):
        build_page(facts, [standing_in("1")], max_bytes=60_000)


def test_names_cannot_leave_the_data(knows):
    world = {"</script><script>alert(1)</script>": "ab", "me": "cd"}
    recommender = knows("item_knn", world)
    shown = recommender.recommend(k=1)
    titles = dict.fromkeys("abcd", '<!--<script>"\u2028&')
    facts = Facts("</title><script>", recommender.item_ids, titles)
    users = user_reasons(recommender, select_users(shown), limits=Limits())
    page = build_page(facts, users, max_bytes=5_000_000).text
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<!--" not in page
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in page
    data = data_in(page)
    assert {user["id"] for user in data["users"]} == set(world)
    assert data["items"][0][1] == titles["a"]


def test_the_policy_lets_nothing_in_but_this_style_and_this_script(knows):
    recommender = knows()
    users = user_reasons(recommender, select_users(recommender.recommend(k=2)), limits=Limits())
    page = build_page(Facts("t", recommender.item_ids), users, max_bytes=5_000_000).text
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for rule, tag in (("style-src", "style"), ("script-src", "script")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not re.search(r"https?://|@import|url\(|<link|\ssrc=|innerHTML\s*=|insertAdjacentHTML", page)


def test_a_report_is_written_and_a_second_run_writes_the_same(knows, tmp_path):
    recommender = knows()
    found = recommend(recommender.model, recommender.histories, np.arange(6), config=ScoreConfig(k=3))
    table = to_table(found, recommender.histories, model_version="shop/7", scored_at=NOON)
    report = write_report(tmp_path / "new" / "page.html", recommender, table, n_users=4, titles={"a": "Apple"})
    assert (report.n_users, report.n_published) == (4, 6)
    assert report.n_bytes == report.path.stat().st_size < 200_000
    data = data_in(report.path.read_text(encoding="utf-8"))
    assert (data["version"], data["scored_at"], data["n_users"]) == ("shop/7", "2026-01-01T12:00:00+00:00", 6)
    assert ["a", "Apple"] in data["items"]
    again = write_report(tmp_path / "again.html", recommender, table, n_users=4, titles={"a": "Apple"})
    assert again.path.read_bytes() == report.path.read_bytes()


def test_a_frame_and_a_published_table_show_the_same(knows, tmp_path):
    recommender = knows()
    frame = recommender.recommend(k=3)
    table = pa.Table.from_pandas(frame.drop(columns="reasons"), preserve_index=False)
    pages = [write_report(tmp_path / "page.html", recommender, it).path.read_text() for it in (frame, table)]
    assert data_in(pages[0]) == data_in(pages[1])


@pytest.mark.parametrize("limits", [{"max_events": 0}, {"max_counterfactual": -1}])
def test_limits_that_make_no_sense_are_refused(knows, tmp_path, limits):
    recommender = knows()
    with pytest.raises(ValueError, match="max_events must be at least 1"):
        write_report(tmp_path / "page.html", recommender, recommender.recommend(k=1), **limits)


def test_what_the_page_is_made_of_is_installed_with_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["attnrec"]
    files = [path for path in (ROOT / "attnrec" / "report").iterdir() if path.is_file() and path.suffix != ".py"]
    assert {path.suffix for path in files} == {".html", ".css", ".js"}
    for path in files:
        assert any(fnmatch.fnmatch(f"report/{path.name}", pattern) for pattern in settings), path.name
