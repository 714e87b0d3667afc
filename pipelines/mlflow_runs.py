"""The MLflow runs of a job: one per training stage, and one per baseline of a data set and split."""

from pathlib import Path
from typing import Any

from attnrec.experiment import Experiment
from attnrec.models import ModelConfig, build_model
from attnrec.storage import read_json
from attnrec.tracking.run_content import epoch_metrics, machine, run_params
from attnrec.tracking.tags import DATA, EXPERIMENT, MACHINE, ROLE
from attnrec.tracking.tracker import Tracker
from attnrec_pipelines.job import Job


def tracker_of(job: Job) -> Tracker:
    """Return the MLflow client of a job."""
    return Tracker(job.home.tracking_uri, experiment=job.experiment.mlflow_experiment, artifacts=job.home.artifacts)


def training_run(job: Job, histories: Path, trained: Path) -> str:
    """Return the run of a training stage; a run that the store no longer has is restored from the stage's files."""
    tracker, key = tracker_of(job), read_json(trained / "manifest.json")["key"]
    run_id = tracker.find_run(key)
    if run_id is None:
        run_id = open_training_run(job, histories, key)
        for number, report in enumerate(read_json(trained / "epochs.json"), start=1):
            tracker.log_metrics(run_id, epoch_metrics(report, validation=job.experiment.train.metric), step=number)
    return run_id


def open_training_run(job: Job, histories: Path, key: str) -> str:
    """Start the run of a training stage, with its params, its data set and the whole experiment."""
    experiment = job.experiment
    name = build_model(experiment.model, n_items=1).description
    return _open(job, histories, key, model=experiment.model, name=name, role="model")


def open_baseline_run(job: Job, histories: Path, key: str, model: ModelConfig) -> str:
    """Start the run of a baseline."""
    return _open(job, histories, key, model=model, name=model.kind, role="baseline")


def content_hash(histories: Path) -> str:
    """Return the content hash of a histories stage."""
    return read_json(histories / "histories" / "manifest.json")["content_hash"]


def _open(job: Job, histories: Path, key: str, *, model: ModelConfig, name: str, role: str) -> str:
    experiment, tracker, digest = job.experiment, tracker_of(job), content_hash(histories)
    training = experiment.train.model_dump() if role == "model" else {}
    tags = {ROLE: role, DATA: digest, EXPERIMENT: experiment.name, MACHINE: machine()}
    run_id = tracker.open_run(
        name,
        stage_key=key,
        params=run_params(model.model_dump(), training, data=experiment.name),
        settings=_settings(experiment, model),
        tags=tags,
    )
    tracker.log_dataset(run_id, name=experiment.name, source=histories, content_hash=digest)
    tracker.save_view(metric=experiment.promote.metric)
    return run_id


def _settings(experiment: Experiment, model: ModelConfig) -> dict[str, Any]:
    return experiment.model_dump(mode="json") | {"model": model.model_dump(mode="json")}
