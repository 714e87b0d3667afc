"""The stage report: the HTML page of a daily run, its cache, and its links in MLflow and Prefect."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from attnrec.faithfulness.files import load_faithfulness
from attnrec.models import build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, save_model
from attnrec.storage import read_json, write_json
from attnrec.tracking.examples import fixed_users
from attnrec.tracking.tags import DESCRIPTION
from attnrec_pipelines.flows.tasks import report_task
from attnrec_pipelines.job import make_job
from attnrec_pipelines.stages.champion import ScoringModel
from attnrec_pipelines.stages.publish import with_last_evaluation
from attnrec_pipelines.stages.report import ReportInputs, build_report

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def data_of(page: Path) -> dict[str, Any]:
    """Return the data of a page, as its script reads it."""
    match = DATA.search(page.read_text())
    assert match is not None
    return json.loads(match[1])


def digits(value: float) -> Any:
    """Compare with the values of a page, which have five digits."""
    return pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def data(first_day):
    """Return the data of the daily run's page."""
    return data_of(first_day[2].page)


@pytest.fixture(scope="module")
def published(first_day):
    """Return the published recommendations by user."""
    return dict(list(pd.read_parquet(first_day[2].published).groupby("user_id")))


@pytest.fixture
def write(first_day, tmp_path):
    """Write a page of the daily run's recommendations into another home."""
    toml, home, first = first_day
    folder = home / read_json(home / "current.json")["model"]

    def make(*overrides: str, model: Path = folder, **inputs: Path) -> Path | None:
        job = make_job(str(toml), ("report.n_users=4", *overrides), str(tmp_path / "home"))
        return build_report(
            job, first.histories, ScoringModel(model, "tiny/1"), first.published, ReportInputs(**inputs)
        )

    return make


# --- the page of a daily run ------------------------------------------------------------------------------


def test_the_page_is_a_stage_of_one_file_under_5_mb(first_day, data):
    _, home, first = first_day
    assert re.fullmatch(rf"{home}/stages/report-[0-9a-f]{{16}}/report\.html", str(first.page))
    assert sorted(file.name for file in first.page.parent.iterdir()) == ["manifest.json", "report.html"]
    manifest = read_json(first.page.with_name("manifest.json"))
    assert manifest["n_users"] == len(data["users"]) == 100
    assert manifest["n_bytes"] == first.page.stat().st_size < 5_000_000


def test_the_page_names_the_model_the_version_and_the_time(data, published):
    assert data["title"] == "tiny: recommendations and their reasons"
    assert (data["model"], data["version"]) == ("attnrec-pooling-d16-L30", "tiny/1")
    assert data["scored_at"] == published["user-0003"]["scored_at"].iloc[0].isoformat()
    assert data["n_users"] == len(published) == 150


def test_the_page_shows_the_same_users_every_day(data, published):
    ids = pd.Index(published)
    assert {user["id"] for user in data["users"]} == set(ids[fixed_users(ids.to_numpy(), n=100)])


def test_items_ranks_and_scores_are_the_published_ones(data, published):
    for user in data["users"]:
        rows = published[user["id"]]
        assert [data["items"][row][0] for row in user["items"]] == rows["item_id"].tolist()
        assert user["published_ranks"] == rows["rank"].tolist()
        assert user["scores"] == digits(rows["score"].tolist())
        assert user["item_bias"] == digits(rows["item_bias"].tolist())


def test_reasons_are_the_published_ones_and_sum_to_the_score(data, published):
    for user in data["users"]:
        events = [data["items"][row][0] for row in user["events"]]
        for row, parts, earlier in zip(
            published[user["id"]].to_dict("records"), user["contributions"], user["earlier_contributions"], strict=True
        ):
            assert sum(parts) + earlier + row["item_bias"] == pytest.approx(row["score"], abs=1e-3)
            for reason in row["reasons"]:
                of_item = [part for item, part in zip(events, parts, strict=True) if item == reason["item_id"]]
                assert sum(of_item) == pytest.approx(reason["contribution"], abs=1e-3), (user["id"], reason)


def test_metrics_are_those_of_the_evaluation_and_the_model_is_first(data, first_day):
    evaluated = read_json(first_day[2].evaluated / "metrics.json")
    assert data["metrics"]["models"] == ["attnrec-pooling-d16-L30", "item_knn", "popularity"]
    rows = {row[0]: row[1:] for row in data["metrics"]["rows"]}
    for number, name in enumerate(("challenger", "item_knn", "popularity")):
        low, high = evaluated[name]["intervals"]["ndcg_at_10"]
        assert rows["ndcg_at_10"][number] == digits([evaluated[name]["metrics"]["ndcg_at_10"], low, high])


def test_faithfulness_is_that_of_the_faithfulness_stage(data, first_day):
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
        chosen = ArtifactFilter(key=ArtifactFilterKey(any_=["tiny-report"]))
        links = [artifact.data for artifact in client.read_artifacts(artifact_filter=chosen, limit=200)]
    assert f"[Recommendations and their reasons]({first_day[2].page.as_uri()})" in links


# --- caching ------------------------------------------------------------------------------------------------


def test_a_page_is_written_once_for_the_same_settings(write):
    first = write()
    written = (first / "report.html").stat().st_mtime_ns
    assert write() == first
    assert (first / "report.html").stat().st_mtime_ns == written
    other = write("report.n_users=2")
    assert other != first
    assert [len(data_of(folder / "report.html")["users"]) for folder in (first, other)] == [4, 2]


def test_no_page_is_written_for_zero_users(write, tmp_path):
    assert write("report.n_users=0") is None
    assert not list((tmp_path / "home" / "stages").iterdir())


def test_titles_are_those_of_the_items_and_changed_titles_make_a_new_page(write, first_day, published, tmp_path):
    best = published["user-0003"]["item_id"].iloc[0]
    items = pd.DataFrame({"item_id": [best, "not in the catalogue", "tea"], "title": ["The best <one>", "x", None]})

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


def test_a_model_without_evaluation_has_a_page_without_metrics(write):
    data = data_of(write() / "report.html")
    assert (data["metrics"], data["faithfulness"]) == (None, None)
    assert len(data["users"]) == 4


def test_a_model_with_the_name_of_a_baseline_keeps_its_own_metrics(write, tmp_path):
    """For example item_knn with other settings."""
    evaluated = tmp_path / "evaluate-by-hand"
    evaluated.mkdir()
    values = {"challenger": 0.3, "item_knn": 0.2, "popularity": 0.1}
    metrics = {name: {"metrics": {"ndcg_at_10": value}, "intervals": {}} for name, value in values.items()}
    write_json(evaluated / "metrics.json", metrics)
    write_json(evaluated / "manifest.json", {"model": "item_knn"})
    shown = data_of(write(evaluated=evaluated) / "report.html")["metrics"]
    assert shown["models"] == ["item_knn (this model)", "item_knn", "popularity"]
    assert [cell[0] for cell in shown["rows"][0][1:]] == [0.3, 0.2, 0.1]


def test_recommendations_of_another_model_are_an_error_and_leave_no_page(write, first_day, tmp_path):
    _, home, _ = first_day
    served = load_model(home / read_json(home / "current.json")["model"])
    settings = {"dim": 16, "layers": 1, "max_length": 30}
    other = build_model(model_config("attnrec", settings), served.model.rankable.shape[0] - 1)
    other.rankable = served.model.rankable
    other.refresh()
    (tmp_path / "other").mkdir()
    save_model(SavedModel(other, served.item_ids), tmp_path / "other")
    with pytest.raises(ValueError, match="the recommendations come from another model or other histories"):
        write(model=tmp_path / "other")
    assert not list((tmp_path / "home" / "stages").iterdir())


# --- links and inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["tiny/1", "tiny/2"])
def test_a_page_is_logged_to_the_champions_run_only_if_the_champion_scored(label, first_day, tmp_path, monkeypatch):
    """The champion may have changed since the recommendations were scored."""
    toml, home, first = first_day
    logged, links = [], []
    tracker = "attnrec.tracking.tracker.Tracker"
    monkeypatch.setattr(f"{tracker}.log_file", lambda *arguments: logged.append(arguments[2:]) or "http://page")
    monkeypatch.setattr(f"{tracker}.set_tags", lambda *arguments: None)
    monkeypatch.setattr("attnrec_pipelines.flows.tasks.show_link", lambda *arguments: links.append(arguments))
    model = ScoringModel(home / read_json(home / "current.json")["model"], label)
    job = make_job(str(toml), ("report.n_users=2",), str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    page = report_task.fn(job, first.histories, model, first.published, ReportInputs())
    expected = {"tiny/1": ([(page, "report")], "http://page"), "tiny/2": ([], page.as_uri())}[label]
    assert (logged, links) == (expected[0], [("tiny-report", expected[1], "Recommendations and their reasons")])


def test_the_description_of_the_champions_run_links_to_the_report_once(first_day):
    _, home, _ = first_day
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    run = client.get_run(client.get_model_version_by_alias("tiny", "champion").run_id)
    folder = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts"
    links = run.data.tags[DESCRIPTION].splitlines()[2]
    assert links.startswith(f"[report]({folder}/report/report.html) · [segments]({folder}/figures/segments.png)")
    assert run.data.tags[DESCRIPTION].count("[report]") == 1


def test_the_last_evaluation_of_the_champion_is_shown_again(first_day, tmp_path):
    toml, home, first = first_day
    job, current = make_job(str(toml), (), str(tmp_path)), read_json(home / "current.json")
    for folder in current["report_inputs"].values():
        (tmp_path / folder).mkdir(parents=True)
    write_json(tmp_path / "current.json", current)
    champion, items = ScoringModel(tmp_path, first.model_version), tmp_path / "items.parquet"
    inputs = with_last_evaluation(job, champion, ReportInputs(items=items))
    assert (inputs.items, inputs.evaluated) == (items, tmp_path / "stages" / first.evaluated.name)
    assert inputs.measured.name.startswith("faithfulness-")
    assert with_last_evaluation(job, ScoringModel(tmp_path, "tiny/2"), ReportInputs(items)) == ReportInputs(items)
    evaluated_now = ReportInputs(evaluated=tmp_path)
    assert with_last_evaluation(job, champion, evaluated_now) == evaluated_now
    (tmp_path / "current.json").unlink()
    assert with_last_evaluation(job, champion, ReportInputs(items)) == ReportInputs(items)
