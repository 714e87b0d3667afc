"""The MLflow run of a training stage: one per stage key, whoever asks."""

from pathlib import Path
from typing import Any

from attnrec.models import build_model
from attnrec.storage import read_json
from attnrec.tracking.tracker import Tracker
from attnrec_pipelines.job import Job


def tracker_of(job: Job) -> Tracker:
    """MLflow, as this job sees it."""
    return Tracker(job.home.tracking_uri, experiment=job.experiment.mlflow_experiment, artifacts=job.home.artifacts)


def run_of(job: Job, histories: Path, trained: Path) -> str:
    """The MLflow run of a trained model; made again from its files when the store has lost it."""
    tracker, key = tracker_of(job), read_json(trained / "manifest.json")["key"]
    run_id = tracker.find_run(key)
    if run_id is None:
        run_id = open_run(job, histories, key)
        for number, report in enumerate(read_json(trained / "epochs.json"), start=1):
            tracker.log_metrics(run_id, report, step=number)
    return run_id


def open_run(job: Job, histories: Path, key: str) -> str:
    """Start the run of a training stage, with what people compare and what it is trained on."""
    experiment, tracker = job.experiment, tracker_of(job)
    params: dict[str, Any] = {f"model.{name}": value for name, value in experiment.model.model_dump().items()}
    compared = ("batch_size", "learning_rate", "weight_decay", "epochs", "seed")
    params |= {f"train.{name}": getattr(experiment.train, name) for name in compared}
    params |= {"split": experiment.split.kind, "data": experiment.name}
    name = build_model(experiment.model, n_items=1).description
    run_id = tracker.open_run(name, stage_key=key, params=params, settings=experiment.model_dump(mode="json"))
    content = read_json(histories / "histories" / "manifest.json")["content_hash"]
    tracker.log_dataset(run_id, name=experiment.name, source=histories, content_hash=content)
    return run_id
