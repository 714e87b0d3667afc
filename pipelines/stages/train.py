"""Stage 3: training, in a process of its own with a deadline; killed and started again it goes on."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from attnrec.dataset import Histories
from attnrec.models import check_window
from attnrec.storage import is_done, read_json, write_json
from attnrec_pipelines.job import Job, PipelineError, make_job
from attnrec_pipelines.stage_cache import build, digest_of, folder_of, key_of
from attnrec_pipelines.stages.evaluate import evaluate_task
from attnrec_pipelines.stages.faithfulness import faithfulness_task
from attnrec_pipelines.stages.ingest import histories_task, ingest_task, items_table
from attnrec_pipelines.stages.register import record_task
from attnrec_pipelines.stages.warm_start import find_start, start_folder
from attnrec_pipelines.tracked_runs import open_run, tracker_of


def train_key(job: Job, histories: Path, items: Path | None, start: str) -> str:
    """What a trained model depends on; the table of items goes into its folder, for those that start from it."""
    experiment = job.experiment
    settings = {
        "split": experiment.split.model_dump(mode="json", exclude={"test_path"}),
        "model": experiment.model.model_dump(mode="json"),
        "filter_viewed": experiment.evaluate.filter_viewed,
        "train": experiment.train.model_dump(mode="json", exclude={"threads", "checkpoint_minutes"}),
        "items": None if items is None else digest_of(items),
        "start": start,
    }
    return key_of("train", inputs=[histories.name], parameters=settings)


def train_model(job: Job, histories: Path, items: Path | None = None) -> Path:
    """Train on the training part, choosing the epoch on validation: a folder with model/ and epochs.json.

    Args:
        job: experiment and home.
        histories: the histories stage.
        items: the ingested table of items, if there is one.
    """
    if "max_length" in job.experiment.model.model_fields_set:
        check_window(job.experiment.model.max_length, Histories.load(histories / "histories"))
    start = find_start(job, lambda start: train_key(job, histories, items, start))
    key = train_key(job, histories, items, start)
    if not is_done(folder_of(job.home, "train", key)):
        run_id = open_run(job, histories, key)
        try:
            more = {"histories": histories, "items": items, "run_id": run_id}
            return _build_in_process(job, "train", key, start, more)
        except PipelineError:
            tracker_of(job).close_run(run_id, failed=True)
            raise
    return folder_of(job.home, "train", key)


def refit_model(job: Job, histories: Path, trained: Path, items: Path | None = None) -> Path:
    """Train on all events, from where training started, for as many epochs as were best: the model that is served."""
    manifest = read_json(trained / "manifest.json")
    key = key_of("refit", inputs=[manifest["key"]], parameters={})
    more = {"histories": histories, "items": items, "epochs": manifest["best_epoch"]}
    return _build_in_process(job, "refit", key, manifest["start"], more)


def _build_in_process(job: Job, mode: Literal["train", "refit"], key: str, start: str, more: dict[str, Any]) -> Path:
    """Run attnrec_pipelines.training_process for a stage; its checkpoint outlives a kill, its output does not."""
    work = job.home.stages / f"work-{mode}-{key}"

    def make(target: Path) -> dict[str, Any]:
        work.mkdir(exist_ok=True)
        spec = {
            "experiment": job.experiment.model_dump(mode="json"),
            "home": str(job.home.root),
            "init": start_folder(job, start),
            "target": str(target),
            "checkpoint": str(work / "checkpoint.safetensors"),
            "mode": mode,
            **more,
        }
        write_json(work / "spec.json", spec)
        _run_process(work / "spec.json", deadline_minutes=job.experiment.pipeline.deadline_minutes)
        return read_json(target / "training.json") | {"start": start}

    folder = build(job.home, mode, key, make)
    for left in work.glob("*"):
        left.unlink()
    if work.exists():
        work.rmdir()
    return folder


def _run_process(spec: Path, *, deadline_minutes: float) -> None:
    command = [sys.executable, "-m", "attnrec_pipelines.training_process", str(spec)]
    problem = spec.with_name("error.txt")
    problem.unlink(missing_ok=True)
    try:
        done = subprocess.run(command, timeout=60 * deadline_minutes, check=False)
    except subprocess.TimeoutExpired:
        raise PipelineError(
            f"training must end within {deadline_minutes:g} minutes and was stopped; "
            "raise pipeline.deadline_minutes or set train.max_minutes, and run again: it goes on from its checkpoint"
        ) from None
    if done.returncode:
        said = problem.read_text() if problem.exists() else f"its process ended with code {done.returncode}"
        raise PipelineError(f"training failed: {said}")


@task(name="train", cache_policy=NO_CACHE)
def train_task(job: Job, histories: Path, items: Path | None) -> Path:
    """Train, or find the model that was trained on the same data with the same settings."""
    return train_model(job, histories, items)


@task(name="refit", cache_policy=NO_CACHE)
def refit_task(job: Job, histories: Path, trained: Path, items: Path | None) -> Path:
    """Train on all events for serving."""
    return refit_model(job, histories, trained, items)


@flow(name="train", log_prints=True)
def train_flow(experiment: str, overrides: tuple[str, ...] = (), home: str | None = None) -> tuple[Path, Path]:
    """Train and evaluate one experiment; everything about it is in MLflow, nothing is registered.

    Returns:
        The training and the evaluation stage.
    """
    job = make_job(experiment, overrides, home)
    logs = ingest_task(job)
    histories = histories_task(job, logs)
    trained = train_task(job, histories, items_table(logs))
    evaluated = evaluate_task(job, histories, trained, logs[0])
    record_task(job, histories, trained, evaluated, faithfulness_task(job, histories, trained))
    return trained, evaluated
