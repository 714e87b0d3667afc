"""Stage: training, in a separate process with a time limit; a killed training resumes from its checkpoint."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from attnrec.dataset import Histories
from attnrec.models import check_max_length
from attnrec.storage import is_done, read_json, write_json
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.mlflow_runs import open_training_run, tracker_of
from attnrec_pipelines.stage_cache import SUMMARY, build, digest_of, folder_of, key_of
from attnrec_pipelines.stages.warm_start import find_init, init_folder


def train_key(job: Job, histories: Path, items: Path | None, init: str) -> str:
    """Return the key of a training stage; the items table is part of its folder, for later warm starts."""
    experiment = job.experiment
    parameters = {
        "split": experiment.split.model_dump(mode="json", exclude={"test_path"}),
        "model": experiment.model.model_dump(mode="json"),
        "filter_viewed": experiment.evaluate.filter_viewed,
        "train": experiment.train.model_dump(mode="json", exclude={"threads", "checkpoint_minutes"}),
        "items": None if items is None else digest_of(items),
        "init": init,
    }
    return key_of("train", inputs=[histories.name], parameters=parameters)


def train_model(job: Job, histories: Path, items: Path | None = None) -> Path:
    """Train on the train part and keep the epoch that is best on validation.

    Args:
        job: experiment and home.
        histories: the histories stage.
        items: the ingested table of items, if there is one.

    Returns:
        A folder with model/ and epochs.json.
    """
    if "max_length" in job.experiment.model.model_fields_set:
        check_max_length(job.experiment.model.max_length, Histories.load(histories / "histories"))
    init = find_init(job, lambda init: train_key(job, histories, items, init))
    key = train_key(job, histories, items, init)
    inputs = {"histories": histories, "items": items}
    if is_done(folder_of(job.home, "train", key)):
        return _build_in_process(job, "train", key, init, inputs)
    run_id = open_training_run(job, histories, key)
    try:
        return _build_in_process(job, "train", key, init, inputs | {"run_id": run_id})
    except PipelineError:
        tracker_of(job).close_run(run_id, failed=True)
        raise


def refit_model(job: Job, histories: Path, trained: Path, items: Path | None = None) -> Path:
    """Train the served model on all events, from the same initial model, for the best number of epochs."""
    manifest = read_json(trained / "manifest.json")
    key = key_of("refit", inputs=[manifest["key"]], parameters={})
    inputs = {"histories": histories, "items": items, "epochs": manifest["best_epoch"]}
    return _build_in_process(job, "refit", key, manifest["init"], inputs)


def training_summary(manifest: dict[str, Any]) -> str:
    """Describe a training in one line: epochs, time, speed, memory."""
    device = manifest["device"] if manifest["processes"] == 1 else f"{manifest['processes']} x {manifest['device']}"
    threads = f"{manifest['threads']} thread{'s' * (manifest['threads'] != 1)}"
    return (
        f"best epoch {manifest['best_epoch']} of {manifest['n_epochs']}, {manifest['seconds']:.0f} s, "
        f"{manifest['tokens_per_second']:,.0f} tokens/s on {device} ({threads}), {manifest['padding']:.0%} padding, "
        f"{manifest['peak_mb']:,.0f} MB, {manifest.get('precision', 'float32').partition(' ')[0]}"
    )


def _build_in_process(job: Job, mode: Literal["train", "refit"], key: str, init: str, inputs: dict[str, Any]) -> Path:
    """Build a stage in `attnrec_pipelines.training_process`; a killed process leaves its checkpoint, but no output."""
    work = job.home.stages / f"work-{mode}-{key}"

    def make(target: Path) -> dict[str, Any]:
        work.mkdir(exist_ok=True)
        spec = {
            "experiment": job.experiment.model_dump(mode="json"),
            "home": str(job.home.root),
            "init": init_folder(job, init),
            "target": str(target),
            "checkpoint": str(work / "checkpoint.safetensors"),
            "mode": mode,
            **inputs,
        }
        write_json(work / "spec.json", spec)
        _run_process(work / "spec.json", timeout_minutes=job.experiment.pipeline.train_timeout_minutes)
        manifest = read_json(target / "training.json") | {"init": init}
        summary = training_summary(manifest)
        if mode == "refit":
            summary = f"on all events, {manifest['n_epochs']} epochs, {manifest['seconds']:.0f} s"
        return manifest | {SUMMARY: summary}

    folder = build(job.home, mode, key, make)
    for file in work.glob("*"):
        file.unlink()
    if work.exists():
        work.rmdir()
    return folder


def _run_process(spec: Path, *, timeout_minutes: float) -> None:
    command = [sys.executable, "-m", "attnrec_pipelines.training_process", str(spec)]
    problem = spec.with_name("error.txt")
    problem.unlink(missing_ok=True)
    try:
        process = subprocess.run(command, timeout=60 * timeout_minutes, check=False)
    except subprocess.TimeoutExpired:
        raise PipelineError(
            f"training must end within {timeout_minutes:g} minutes and was stopped; increase "
            "pipeline.train_timeout_minutes or set train.max_minutes; the next run resumes from the checkpoint"
        ) from None
    if process.returncode:
        reason = problem.read_text() if problem.exists() else f"its process ended with exit code {process.returncode}"
        raise PipelineError(f"training failed: {reason}")
