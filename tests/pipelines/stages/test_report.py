"""The page of recommendations with their reasons: the stage of a daily run, what is in it, and where it is shown."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from attnrec.faithfulness.files import load_faithfulness
from attnrec.models import build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, save_model
from attnrec.storage import read_json, write_json
from attnrec.tracking.examples import fixed_users
from attnrec_pipelines.flows.tasks import report_task
from attnrec_pipelines.job import make_job
from attnrec_pipelines.stages.champion import ScoringModel
from attnrec_pipelines.stages.publish import with_last_evaluation
from attnrec_pipelines.stages.report import ReportInputs, build_report

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def data_of(page: Path) -> dict[str, Any]:
    """What a page was told, as its script reads it."""
    found = DATA.search(page.read_text())
    assert found is not None
    return json.loads(found[1])


def digits(value: float) -> Any:
    """The value as a page has it, to five digits."""
    return pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def data(first_day):
    """The data in the page of the daily run."""
    return data_of(first_day[2].page)


@pytest.fixture(scope="module")
def published(first_day):
    """What the daily run published, by user."""
    return dict(list(pd.read_parquet(first_day[2].published).groupby("user_id")))


@pytest.fixture
def write(first_day, tmp_path):
    """Writes a page of the daily run's recommendations into a home of its own, by the model that served."""
    toml, home, first = first_day
    folder = home / read_json(home / "current.json")["model"]

    def make(*overrides: str, model: Path = folder, **about: Path) -> Path | None:
        job = make_job(str(toml), ("report.n_users=4", *overrides), str(tmp_path / "home"))
        return build_report(job, first.histories, ScoringModel(model, "tiny/1"), first.published, ReportInputs(**about))

    return make


# --- the page of a daily run ------------------------------------------------------------------------------


def test_the_page_is_a_stage_of_one_file_under_5_mb(first_day, data):
    _, home, first = first_day
    assert re.fullmatch(rf"{home}/stages/report-[0-9a-f]{{16}}/report\.html", str(first.page))
    assert sorted(file.name for file in first.page.parent.iterdir()) == ["manifest.json", "report.html"]
    manifest = read_json(first.page.with_name("manifest.json"))
    assert manifest["n_users"] == len(data["users"]) == 100
    assert manifest["n_bytes"] == first.page.stat().st_size < 5_000_000


def test_the_page_says_whose_recommendations_these_are(data, published):
    assert data["title"] == "tiny: recommendations and their reasons"
    assert (data["model"], data["version"]) == ("attnrec-pooling-d16-L30", "tiny/1")
    assert data["scored_at"] == published["user-0003"]["scored_at"].iloc[0].isoformat()
    assert data["n_users"] == len(published) == 150


def test_the_page_shows_the_same_people_every_day(data, published):
    ids = pd.Index(published)
    assert {user["id"] for user in data["users"]} == set(ids[fixed_users(ids.to_numpy(), n=100)])


def test_items_places_and_scores_are_the_published_ones(data, published):
    for user in data["users"]:
        rows = published[user["id"]]
        assert [data["items"][place][0] for place in user["items"]] == rows["item_id"].tolist()
        assert user["published_ranks"] == rows["rank"].tolist()
        assert user["scores"] == digits(rows["score"].tolist())
        assert user["item_bias"] == digits(rows["item_bias"].tolist())


def test_reasons_are_the_published_ones_and_add_up(data, published):
    for user in data["users"]:
        things = [data["items"][place][0] for place in user["events"]]
        for row, parts, earlier in zip(
            published[user["id"]].to_dict("records"), user["contributions"], user["earlier_contributions"], strict=True
        ):
            assert sum(parts) + earlier + row["item_bias"] == pytest.approx(row["score"], abs=1e-3)
            for reason in row["reasons"]:
                added = [part for thing, part in zip(things, parts, strict=True) if thing == reason["item_id"]]
                assert sum(added) == pytest.approx(reason["contribution"], abs=1e-3), (user["id"], reason)


def test_metrics_are_those_of_the_evaluation_and_the_model_stands_first(data, first_day):
    found = read_json(first_day[2].evaluated / "metrics.json")
    assert data["metrics"]["models"] == ["attnrec-pooling-d16-L30", "item_knn", "popularity"]
    rows = {row[0]: row[1:] for row in data["metrics"]["rows"]}
    for number, name in enumerate(("challenger", "item_knn", "popularity")):
        low, high = found[name]["intervals"]["ndcg_at_10"]
        assert rows["ndcg_at_10"][number] == digits([found[name]["metrics"]["ndcg_at_10"], low, high])


def test_faithfulness_is_that_of_the_stage(data, first_day):
    (folder,) = (first_day[1] / "stages").glob("faithfulness-*")
    summary = load_faithfulness(folder).summary().set_index("method")
    assert {row["method"] for row in data["faithfulness"]} == set(summary.index)
    for row in data["faithfulness"]:
        assert row["pos_at_5"] == digits(summary["pos_at_5"][row["method"]])
        assert row["control"] == summary["control"][row["method"]]


def test_prefect_links_to_the_page(first_day):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        asked = ArtifactFilter(key=ArtifactFilterKey(any_=["tiny-report"]))
        found = [one for one in client.read_artifacts(artifact_filter=asked, limit=200) if one.type == "markdown"]
    link = f"[Recommendations and their reasons]({first_day[2].page.as_uri()})"
    assert link in [one.data for one in found]


# --- which page it is -------------------------------------------------------------------------------------


def test_the_same_page_is_written_once_and_another_one_beside_it(write):
    first = write()
    made = (first / "report.html").stat().st_mtime_ns
    assert write() == first
    assert (first / "report.html").stat().st_mtime_ns == made
    other = write("report.n_users=2")
    assert other != first
    assert [len(data_of(folder / "report.html")["users"]) for folder in (first, other)] == [4, 2]


def test_no_page_where_none_is_asked_for(write, tmp_path):
    assert write("report.n_users=0") is None
    assert not list((tmp_path / "home" / "stages").iterdir())


def test_titles_are_those_of_the_items_and_new_ones_make_a_new_page(write, first_day, published, tmp_path):
    best = published["user-0003"]["item_id"].iloc[0]
    items = pd.DataFrame({"item_id": [best, "nothing of ours", "tea"], "title": ["The best <one>", "x", None]})

    def page(table: pd.DataFrame) -> Path:
        table.to_parquet(tmp_path / "items.parquet")
        folder = write("report.n_users=150", items=tmp_path / "items.parquet")
        return folder / "report.html"

    with_titles = page(items)
    assert [best, "The best <one>"] in data_of(with_titles)["items"]
    renamed = page(items.replace("The best <one>", "Another name"))
    assert renamed != with_titles
    assert [best, "Another name"] in data_of(renamed)["items"]
    assert [best] in data_of(page(items[["item_id"]]))["items"], "items without titles are shown by their ids"


def test_of_a_model_that_nothing_else_is_known_of_only_recommendations_are_shown(write):
    data = data_of(write() / "report.html")
    assert (data["metrics"], data["faithfulness"]) == (None, None)
    assert len(data["users"]) == 4


def test_a_model_that_is_called_like_a_baseline_keeps_its_own_metrics(write, tmp_path):
    """As item_knn with other settings is."""
    evaluated = tmp_path / "evaluate-by-hand"
    evaluated.mkdir()
    found = {"challenger": 0.3, "item_knn": 0.2, "popularity": 0.1}
    metrics = {name: {"metrics": {"ndcg_at_10": value}, "intervals": {}} for name, value in found.items()}
    write_json(evaluated / "metrics.json", metrics)
    write_json(evaluated / "manifest.json", {"model": "item_knn"})
    shown = data_of(write(evaluated=evaluated) / "report.html")["metrics"]
    assert shown["models"] == ["item_knn (this model)", "item_knn", "popularity"]
    assert [cell[0] for cell in shown["rows"][0][1:]] == [0.3, 0.2, 0.1]


def test_recommendations_of_another_model_leave_no_page(write, first_day, tmp_path):
    _, home, _ = first_day
    own = load_model(home / read_json(home / "current.json")["model"])
    settings = {"dim": 16, "layers": 1, "max_length": 30}
    other = build_model(model_config("attnrec", settings), own.model.rankable.shape[0] - 1)
    other.rankable = own.model.rankable
    other.refresh()
    (tmp_path / "other").mkdir()
    save_model(SavedModel(other, own.item_ids), tmp_path / "other")
    with pytest.raises(ValueError, match="were made by another model or other histories"):
        write(model=tmp_path / "other")
    assert not list((tmp_path / "home" / "stages").iterdir())


# --- where it is shown ------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["tiny/1", "tiny/2"])
def test_a_page_is_kept_with_a_run_only_where_that_run_trained_its_model(label, first_day, tmp_path, monkeypatch):
    """The champion may have changed since the recommendations were made."""
    toml, home, first = first_day
    kept, links = [], []
    monkeypatch.setattr(
        "attnrec.tracking.tracker.Tracker.log_file", lambda *given: kept.append(given[2:]) or "http://page"
    )
    monkeypatch.setattr("attnrec_pipelines.flows.tasks.show_link", lambda *given: links.append(given))
    served = ScoringModel(home / read_json(home / "current.json")["model"], label)
    job = make_job(str(toml), ("report.n_users=2",), str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    page = report_task.fn(job, first.histories, served, first.published, ReportInputs())
    expected = {"tiny/1": ([(page, "report")], "http://page"), "tiny/2": ([], page.as_uri())}[label]
    assert (kept, links) == (expected[0], [("tiny-report", expected[1], "Recommendations and their reasons")])


def test_what_was_known_of_a_model_when_it_scored_last_is_shown_again(first_day, tmp_path):
    toml, home, first = first_day
    job, facts = make_job(str(toml), (), str(tmp_path)), read_json(home / "current.json")
    for folder in facts["report_inputs"].values():
        (tmp_path / folder).mkdir(parents=True)
    write_json(tmp_path / "current.json", facts)
    served, items = ScoringModel(tmp_path, first.model_version), tmp_path / "items.parquet"
    known = with_last_evaluation(job, served, ReportInputs(items=items))
    assert (known.items, known.evaluated) == (items, tmp_path / "stages" / first.evaluated.name)
    assert known.measured.name.startswith("faithfulness-")
    assert with_last_evaluation(job, ScoringModel(tmp_path, "tiny/2"), ReportInputs(items)) == ReportInputs(items)
    own = ReportInputs(evaluated=tmp_path)
    assert with_last_evaluation(job, served, own) == own
    (tmp_path / "current.json").unlink()
    assert with_last_evaluation(job, served, ReportInputs(items)) == ReportInputs(items)
