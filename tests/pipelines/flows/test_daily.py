"""The daily flow: order, files, a second run, a killed run, a worse challenger."""

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
from attnrec_pipelines.flows.daily import daily_flow
from attnrec_pipelines.flows.score import score_flow
from attnrec_pipelines.job import PipelineError, make_job
from attnrec_pipelines.stages.publish import publish

ROOT = Path(__file__).parents[3]
STAGES = sorted(
    [
        "ingest",
        "histories",
        "train",
        "evaluate",
        "faithfulness",
        "promote",
        "refit",
        *["score"] * 3,
        "publish",
        "report",
    ]
)


def store(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def published(home: Path) -> pd.DataFrame:
    parts = sorted((home / "recommendations" / "tiny" / "current").glob("part-*.parquet"))
    return pd.concat([pq.read_table(part).to_pandas() for part in parts], ignore_index=True)


def test_a_log_becomes_recommendations_with_reasons(first_day):
    _, home, result = first_day
    assert sorted(folder.name.rsplit("-", 1)[0] for folder in (home / "stages").iterdir()) == STAGES
    found = published(home)
    assert list(found.columns) == [
        "user_id", "rank", "item_id", "score", "source", "reasons", "explained_share", "other_events", "item_bias",
        "model_version", "scored_at",
    ]  # fmt: skip
    assert found["user_id"].nunique() == 150
    assert (found.groupby("user_id")["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3, 4, 5])).all()
    assert set(found["model_version"]) == {"tiny/1"}
    assert result.model_version == "tiny/1"


def test_published_scores_are_the_sum_of_what_is_written_beside_them(first_day):
    _, home, _ = first_day
    found = published(home)
    told = found["reasons"].map(lambda reasons: sum(reason["contribution"] for reason in reasons))
    np.testing.assert_allclose(found["score"], found["item_bias"] + told + found["other_events"], atol=1e-4)


def test_no_recommended_item_was_seen_before(first_day):
    toml, home, _ = first_day
    log = pd.read_csv(toml.with_name("log.csv"))
    seen = set(zip(log["user_id"], log["item_id"], strict=True))
    found = published(home)
    assert not seen & set(zip(found["user_id"], found["item_id"], strict=True))


def test_a_second_run_does_nothing(first_day, stage_times):
    toml, home, first = first_day
    before = stage_times(home)
    second = daily_flow(str(toml), home=str(home))
    assert stage_times(home) == before
    assert second.published.resolve() == first.published.resolve()
    assert len(store(home).search_model_versions("name = 'tiny'")) == 1
    assert len(store(home).search_runs(["1"])) == 3, "the model and two baselines"


def test_two_homes_get_the_same_bytes(first_day, tmp_path):
    toml, home, first = first_day
    at = datetime(2026, 1, 2, tzinfo=UTC)
    for name in ("one", "two"):
        shutil.copytree(home, tmp_path / name, symlinks=True)
        score_flow(str(toml), (), str(tmp_path / name), at)
    one, two = (
        [part.read_bytes() for part in sorted((tmp_path / name).glob("recommendations/tiny/current/*.parquet"))]
        for name in ("one", "two")
    )
    assert one == two
    assert set(published(tmp_path / "one")["scored_at"]) == {pd.Timestamp(at)}
    pages = [
        page.read_bytes()
        for name in ("one", "two")
        for page in (tmp_path / name).glob("stages/report-*/report.html")
        if page.parent != tmp_path / name / "stages" / first.page.parent.name
    ]
    assert len(pages) == 2, "who scores writes a page, too"
    assert pages[0] == pages[1] != first.page.read_bytes()
    assert at.isoformat() in pages[0].decode()


def test_mlflow_has_the_run_and_the_baselines(first_day):
    _, home, _ = first_day
    client = store(home)
    experiment = client.get_experiment_by_name("attnrec-tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["attnrec-pooling-d16-L30", "item_knn", "popularity"]
    run = runs["attnrec-pooling-d16-L30"]
    assert run.info.run_name == "attnrec-pooling-d16-L30"
    assert run.info.status == "FINISHED"
    assert run.data.params["dim"] == "16"
    assert re.search(
        r"best epoch \d of 3, .* tokens/s on cpu \(1 thread\), \d+% padding", run.data.tags["mlflow.note.content"]
    )
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/ndcg_at_10")] == [1, 2, 3]
    assert {"main/ndcg_at_10", "train/loss", "test/hit_rate_at_10", "val/ndcg_at_10"} <= set(run.data.metrics)
    for name in ("item_knn", "popularity"):
        assert runs[name].data.tags["attnrec.role"] == "baseline"
        assert runs[name].data.metrics["main/ndcg_at_10"] >= 0
    manifest = json.loads(next(home.glob("stages/histories-*/histories/manifest.json")).read_text())
    assert run.inputs.dataset_inputs[0].dataset.digest == manifest["content_hash"][:32]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"experiment.json", "tables", "figures", "evaluated_model", "evaluation"} <= files
    examples = json.loads(
        Path(client.download_artifacts(run.info.run_id, "tables/examples.json", str(home))).read_text()
    )
    assert examples["columns"] == ["user_id", "history", "top", "because"]
    assert len(examples["data"]) == 5
    assert all("because: " in row[3] for row in examples["data"])


def test_the_registry_serves_the_refitted_model(first_day):
    _, home, _ = first_day
    version = store(home).get_model_version_by_alias("tiny", "champion")
    assert version.version == store(home).get_model_version_by_alias("tiny", "challenger").version
    assert version.tags["attnrec.served_stage"].startswith("refit-")
    assert "first champion" in version.description
    refit = load_model(home / "stages" / version.tags["attnrec.served_stage"] / "model")
    assert refit.metadata["mode"] == "refit"


def test_nothing_that_was_written_is_a_pickle(first_day):
    _, home, _ = first_day
    files = [file for file in home.rglob("*") if file.is_file()]
    assert len(files) > 30
    for file in files:
        head = file.read_bytes()[:2]
        assert file.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".joblib"}, file
        assert not (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"), file


def test_a_worse_challenger_is_not_promoted(first_day, tmp_path):
    toml, home, _ = first_day
    copied = tmp_path / "home"
    shutil.copytree(home, copied, symlinks=True)
    result = daily_flow(str(toml), ("train.epochs=1", "train.learning_rate=1e-6", "promote.tolerance=0"), str(copied))
    assert not result.decision.promoted
    assert result.model_version == "tiny/1"
    client = store(copied)
    assert client.get_model_version_by_alias("tiny", "champion").version == 1
    assert client.get_model_version_by_alias("tiny", "challenger").version == 2
    assert set(published(copied)["model_version"]) == {"tiny/1"}


def test_a_better_challenger_takes_over_and_the_old_one_is_previous(first_day, tmp_path):
    toml, home, _ = first_day
    copied = tmp_path / "home"
    shutil.copytree(home, copied, symlinks=True)
    overrides = ("train.epochs=12", "promote.metric=recall_at_20", "promote.tolerance=0.99")
    found = decided_without_baselines(str(toml), overrides, str(copied))
    assert found.decision.promoted
    client = store(copied)
    assert client.get_model_version_by_alias("tiny", "champion").version == 2
    assert client.get_model_version_by_alias("tiny", "previous").version == 1
    assert set(published(copied)["model_version"]) == {"tiny/2"}


def decided_without_baselines(toml: str, overrides: tuple[str, ...], home: str):
    """A daily run in which only the champion is the rival."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnrec_pipelines.stages.promote.BASELINES", ())
        return daily_flow(toml, overrides, home)


def test_a_champion_is_found_again_on_a_machine_without_its_stages(first_day, tmp_path):
    toml, home, _ = first_day
    copied = tmp_path / "home"
    shutil.copytree(home, copied, symlinks=True)
    for stage in ("train", "refit"):
        shutil.rmtree(next((copied / "stages").glob(f"{stage}-*")))
    score_flow(str(toml), (), str(copied), datetime(2026, 2, 3, tzinfo=UTC))
    assert next((copied / "stages").glob("champion-*/model/config.json")).is_file()
    scores = published(copied)["score"]
    np.testing.assert_allclose(scores, published(home)["score"], rtol=1e-5)


def test_another_experiments_model_is_not_overwritten(first_day, tmp_path, stage_times):
    toml, home, _ = first_day
    copied = tmp_path / "home"
    shutil.copytree(home, copied, symlinks=True)
    before = stage_times(copied)
    with pytest.raises(PipelineError, match=r"serves experiment 'tiny', got experiment 'other'"):
        daily_flow(str(toml), ("name=other",), str(copied))
    assert stage_times(copied) == before, "it fails before any stage is built"


def test_a_killed_training_resumes_and_ends_with_the_same_weights(first_day, tmp_path):
    """kill -9 in the middle of training; the same command again; the old MLflow run is KILLED."""
    toml, _, _ = first_day
    home = tmp_path / "home"
    command = [sys.executable, "-m", "attnrec_pipelines", "train", str(toml), "--home", str(home)]
    command += ["--set", "train.epochs=30", "--set", "train.patience=30"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(home.glob("stages/work-train-*/checkpoint.safetensors")), seconds=90)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not any(home.glob("stages/train-*/manifest.json")), "it was killed too late to be a test"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming from epoch" in done.stderr
    straight = tmp_path / "straight"
    subprocess.run(
        [*command[:6], str(straight), *command[7:]], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    killed, whole = (next(folder.glob("stages/train-*/model/weights.safetensors")) for folder in (home, straight))
    assert killed.read_bytes() == whole.read_bytes()
    states = sorted(run.info.status for run in store(home).search_runs(["1"]))
    assert states == ["FINISHED", "FINISHED", "FINISHED", "KILLED"]
    assert not any(home.glob("stages/.tmp-*/model"))


def test_ctrl_c_ends_at_once_and_says_how_to_resume(first_day, tmp_path):
    toml, _, _ = first_day
    home = tmp_path / "home"
    command = [sys.executable, "-m", "attnrec_pipelines", "train", str(toml), "--home", str(home)]
    command += ["--set", "train.epochs=100000", "--set", "train.patience=100000"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(home.glob("stages/work-train-*/checkpoint.safetensors")), seconds=90)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command resumes from the last checkpoint" in said
    assert "Traceback" not in said


def test_published_recommendations_open_as_one_table(first_day):
    _, home, _ = first_day
    assert len(pd.read_parquet(home / "recommendations" / "tiny" / "current")) == 150 * 5


def test_training_is_stopped_at_its_time_limit(first_day, tmp_path):
    toml, _, _ = first_day
    home = tmp_path / "home"
    overrides = ("train.epochs=100000", "train.patience=100000", "pipeline.train_timeout_minutes=0.2")
    with pytest.raises(PipelineError, match=r"training must end within 0.2 minutes"):
        daily_flow(str(toml), overrides, str(home))
    assert not any(home.glob("stages/train-*"))
    assert [run.info.status for run in store(home).search_runs(["1"])] == ["FAILED"]


def test_publication_refuses_a_user_who_is_in_two_shards(first_day, tmp_path):
    toml, home, _ = first_day
    copied = tmp_path / "home"
    shutil.copytree(home, copied, symlinks=True)
    job = make_job(str(toml), (), str(copied))
    shard = next((copied / "stages").glob("score-*"))
    before = (copied / "recommendations" / "tiny" / "current").resolve()
    with pytest.raises(PipelineError, match="each user and rank once"):
        publish(job, [shard, shard], None, datetime(2026, 1, 1, tzinfo=UTC))
    assert (copied / "recommendations" / "tiny" / "current").resolve() == before


def wait_until(happened, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
