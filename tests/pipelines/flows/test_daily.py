"""The daily flow: stages, files, MLflow, a second run, a killed run, promotion."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from attnrec.models.saved_model import load_model
from attnrec.tracking.tags import DESCRIPTION, EXPERIMENT, ROLE, SERVED_STAGE
from attnrec_pipelines.flows.daily import daily_flow
from attnrec_pipelines.flows.score import score_flow
from attnrec_pipelines.flows.train import train_flow
from attnrec_pipelines.job import PipelineError, make_job
from attnrec_pipelines.stages.publish import publish

ROOT = Path(__file__).parents[3]
STAGES = [
    *("evaluate", "faithfulness", "histories", "ingest", "promote", "publish", "refit", "report"),
    *("score", "score", "score", "train"),
]


def store(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def published(home: Path) -> pd.DataFrame:
    parts = sorted((home / "recommendations" / "tiny" / "current").glob("part-*.parquet"))
    return pd.concat([pq.read_table(part).to_pandas() for part in parts], ignore_index=True)


# --- recommendations ------------------------------------------------------------------------------------------


def test_a_log_becomes_recommendations_with_reasons(first_day):
    _, home, result = first_day
    assert sorted(folder.name.rsplit("-", 1)[0] for folder in (home / "stages").iterdir()) == STAGES
    frame = published(home)
    assert list(frame.columns) == [
        "user_id", "rank", "item_id", "score", "source", "reasons", "explained_share", "other_events", "item_bias",
        "model_version", "scored_at",
    ]  # fmt: skip
    assert frame["user_id"].nunique() == 150
    assert (frame.groupby("user_id")["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3, 4, 5])).all()
    assert set(frame["model_version"]) == {"tiny/1"}
    assert result.model_version == "tiny/1"


def test_published_recommendations_open_as_one_table(first_day):
    _, home, _ = first_day
    assert len(pd.read_parquet(home / "recommendations" / "tiny" / "current")) == 150 * 5


def test_published_scores_are_the_sum_of_the_published_contributions(first_day):
    _, home, _ = first_day
    frame = published(home)
    reasons = frame["reasons"].map(lambda reasons: sum(reason["contribution"] for reason in reasons))
    np.testing.assert_allclose(frame["score"], frame["item_bias"] + reasons + frame["other_events"], atol=1e-4)


def test_no_viewed_item_is_recommended(first_day):
    toml, home, _ = first_day
    log, frame = pd.read_csv(toml.with_name("log.csv")), published(home)
    viewed = set(zip(log["user_id"], log["item_id"], strict=True))
    assert not viewed & set(zip(frame["user_id"], frame["item_id"], strict=True))


def test_two_homes_get_the_same_bytes(first_day, copy_home, tmp_path):
    toml, home, first = first_day
    at = datetime(2026, 1, 2, tzinfo=UTC)
    homes = [copy_home(home, tmp_path / name) for name in ("one", "two")]
    for copy in homes:
        score_flow(str(toml), (), str(copy), at)
    one, two = (
        [part.read_bytes() for part in sorted(copy.glob("recommendations/tiny/current/*.parquet"))] for copy in homes
    )
    assert one == two
    assert set(published(homes[0])["scored_at"]) == {pd.Timestamp(at)}
    pages = [
        page.read_bytes()
        for copy in homes
        for page in copy.glob("stages/report-*/report.html")
        if page.parent.name != first.page.parent.name
    ]
    assert len(pages) == 2, "the flow `score` writes a report, too"
    assert pages[0] == pages[1] != first.page.read_bytes()
    assert at.isoformat() in pages[0].decode()


def test_publication_refuses_a_user_who_is_in_two_shards(first_day, copied_home):
    job = make_job(str(first_day[0]), (), str(copied_home))
    shard = next((copied_home / "stages").glob("score-*"))
    before = (copied_home / "recommendations" / "tiny" / "current").resolve()
    with pytest.raises(PipelineError, match="each user and rank once"):
        publish(job, [shard, shard], None, datetime(2026, 1, 1, tzinfo=UTC))
    assert (copied_home / "recommendations" / "tiny" / "current").resolve() == before


def test_no_written_file_is_a_pickle(first_day):
    _, home, _ = first_day
    files = [file for file in home.rglob("*") if file.is_file()]
    assert len(files) > 30
    for file in files:
        head = file.read_bytes()[:2]
        assert file.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".joblib"}, file
        assert not (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"), file


# --- MLflow ---------------------------------------------------------------------------------------------------


def test_mlflow_has_a_run_of_the_model_and_one_of_each_baseline(first_day, tmp_path):
    _, home, _ = first_day
    client = store(home)
    experiment = client.get_experiment_by_name("attnrec-tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["attnrec-pooling-d16-L30", "item_knn", "popularity"]
    run = runs["attnrec-pooling-d16-L30"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert run.data.tags[ROLE] == "model"
    assert (run.data.params["architecture"], run.data.params["dim"]) == ("attnrec", "16")
    assert len(run.data.params) <= 15
    assert re.search(r"best epoch \d of 3, .* tokens/s on cpu \(1 thread\), \d+% padding", run.data.tags[DESCRIPTION])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/ndcg_at_10")] == [1, 2, 3]
    assert {"main/ndcg_at_10", "test/hit_rate_at_10", "train/best_epoch", "train/loss"} <= set(run.data.metrics)
    assert len(run.data.metrics) <= 25
    for name in ("item_knn", "popularity"):
        baseline = runs[name].data
        assert baseline.tags[ROLE] == "baseline"
        assert baseline.params["architecture"] == name
        assert "main/ndcg_at_10" in baseline.metrics
        assert f"{name} ({baseline.metrics['main/ndcg_at_10']:.4f})" in run.data.tags[DESCRIPTION]
        assert "mlflow.parentRunId" not in baseline.tags
    manifest = json.loads(next(home.glob("stages/histories-*/histories/manifest.json")).read_text())
    assert run.inputs.dataset_inputs[0].dataset.digest == manifest["content_hash"][:32]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"experiment.json", "tables", "figures", "evaluated_model", "evaluation", "report"} <= files
    examples = json.loads(
        Path(client.download_artifacts(run.info.run_id, "tables/examples.json", str(tmp_path))).read_text()
    )
    assert examples["columns"] == ["user_id", "history", "top", "because"]
    assert len(examples["data"]) == 5
    assert all("because: " in row[3] for row in examples["data"])


def test_the_experiment_has_a_saved_view(first_day):
    client = store(first_day[1])
    tags = client.get_experiment_by_name("attnrec-tiny").tags
    assert json.loads(tags["mlflow.sharedViewState.attnrec-overview"])["name"] == "attnrec overview"


def test_the_registry_serves_the_refitted_model(first_day):
    _, home, _ = first_day
    version = store(home).get_model_version_by_alias("tiny", "champion")
    assert version.version == store(home).get_model_version_by_alias("tiny", "challenger").version
    assert version.tags[EXPERIMENT] == "tiny"
    assert version.tags[SERVED_STAGE].startswith("refit-")
    assert "first champion" in version.description
    refit = load_model(home / "stages" / version.tags[SERVED_STAGE] / "model")
    assert refit.metadata["mode"] == "refit"


# --- promotion ------------------------------------------------------------------------------------------------


def test_a_worse_challenger_is_not_promoted(first_day, copied_home, in_this_process):
    overrides = ("train.epochs=1", "train.learning_rate=1e-6", "promote.tolerance=0")
    result = daily_flow(str(first_day[0]), overrides, str(copied_home))
    assert not result.decision.promoted
    assert result.model_version == "tiny/1"
    client = store(copied_home)
    assert client.get_model_version_by_alias("tiny", "champion").version == 1
    assert client.get_model_version_by_alias("tiny", "challenger").version == 2
    assert set(published(copied_home)["model_version"]) == {"tiny/1"}


def test_a_better_challenger_becomes_champion_and_the_former_champion_is_previous(
    first_day, copied_home, in_this_process, monkeypatch
):
    monkeypatch.setattr("attnrec_pipelines.stages.promote.BASELINES", ())
    overrides = ("train.epochs=12", "promote.metric=recall_at_20", "promote.tolerance=0.99")
    result = daily_flow(str(first_day[0]), overrides, str(copied_home))
    assert result.decision.promoted
    client = store(copied_home)
    assert client.get_model_version_by_alias("tiny", "champion").version == 2
    assert client.get_model_version_by_alias("tiny", "previous").version == 1
    assert set(published(copied_home)["model_version"]) == {"tiny/2"}


def test_a_champion_without_its_stages_is_downloaded_from_mlflow(first_day, copied_home):
    toml, home, _ = first_day
    for stage in ("train", "refit"):
        shutil.rmtree(next((copied_home / "stages").glob(f"{stage}-*")))
    score_flow(str(toml), (), str(copied_home), datetime(2026, 2, 3, tzinfo=UTC))
    assert next((copied_home / "stages").glob("champion-*/model/config.json")).is_file()
    np.testing.assert_allclose(published(copied_home)["score"], published(home)["score"], rtol=1e-5)


def test_a_registered_model_of_another_experiment_is_an_error_before_any_stage(first_day, copied_home, stage_times):
    before = stage_times(copied_home)
    with pytest.raises(PipelineError, match=r"serves experiment 'tiny', got experiment 'other'"):
        daily_flow(str(first_day[0]), ("name=other",), str(copied_home))
    assert stage_times(copied_home) == before


# --- a second run, a killed run, a time limit -----------------------------------------------------------------


def test_a_second_run_does_nothing(first_day, stage_times):
    toml, home, first = first_day
    before = stage_times(home)
    second = daily_flow(str(toml), home=str(home))
    assert stage_times(home) == before
    assert second.published.resolve() == first.published.resolve()
    assert len(store(home).search_model_versions("name = 'tiny'")) == 1
    assert len(store(home).search_runs(["1"])) == 3, "the model and two baselines"


@pytest.fixture
def start_training():
    """Start `attnrec train` in a process group of its own, which is killed after the test at the latest."""
    started: list[subprocess.Popen[str]] = []

    def start(toml: Path, home: Path, overrides: tuple[str, ...]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "attnrec_pipelines", "train", str(toml), "--home", str(home)]
        command += [argument for override in overrides for argument in ("--set", override)]
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()


def test_a_killed_training_resumes_and_ends_with_the_same_weights(
    first_day, new_home, make_home, start_training, tmp_path, capfd
):
    """The first run is killed with SIGKILL during training; the second one resumes; a third one is never killed."""
    toml, _, _ = first_day
    overrides = ("train.epochs=30", "train.patience=30", "faithfulness.n_users=0")
    process = start_training(toml, new_home, overrides)
    wait_until(lambda: any(new_home.glob("stages/work-train-*/checkpoint.safetensors")), seconds=180)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not any(new_home.glob("stages/train-*/manifest.json")), "training was complete before it was killed"
    train_flow(str(toml), overrides, str(new_home))
    assert "resuming from epoch" in capfd.readouterr().err
    never_killed = make_home(tmp_path / "never-killed")
    train_flow(str(toml), overrides, str(never_killed))
    weights = [next(home.glob("stages/train-*/model/weights.safetensors")) for home in (new_home, never_killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    statuses = sorted(run.info.status for run in store(new_home).search_runs(["1"]))
    assert statuses == ["FINISHED", "FINISHED", "FINISHED", "KILLED"], "the model, two baselines, the killed run"
    assert not any(new_home.glob("stages/.tmp-*/model"))


def test_ctrl_c_stops_at_once_and_tells_how_to_resume(first_day, new_home, start_training):
    process = start_training(first_day[0], new_home, ("train.epochs=100000", "train.patience=100000"))
    wait_until(lambda: any(new_home.glob("stages/work-train-*/checkpoint.safetensors")), seconds=180)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command resumes from the last checkpoint" in errors
    assert "Traceback" not in errors


def test_training_is_stopped_at_its_time_limit(first_day, new_home):
    overrides = ("train.epochs=100000", "train.patience=100000", "pipeline.train_timeout_minutes=0.05")
    with pytest.raises(PipelineError, match=r"training must end within 0.05 minutes"):
        train_flow(str(first_day[0]), overrides, str(new_home))
    assert not any(new_home.glob("stages/train-*"))
    assert [run.info.status for run in store(new_home).search_runs(["1"])] == ["FAILED"]


def wait_until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition was not met within {seconds:g} s"
        time.sleep(0.05)
