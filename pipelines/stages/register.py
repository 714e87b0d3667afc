"""Stage: the model to be served becomes a version in MLflow's registry; a promoted one becomes champion."""

import tempfile
import time
from pathlib import Path

from attnrec.evaluation.promotion import Decision
from attnrec.models.saved_model import load_model, save_model
from attnrec.storage import read_json
from attnrec.tracking.tags import EXPERIMENT, INIT_KEY, PROMOTED, SERVED_STAGE, SPLIT_KEY, STAGE_KEY, TRAIN_KEY
from attnrec.tracking.tracker import Version
from attnrec_pipelines.job import Job
from attnrec_pipelines.mlflow_runs import content_hash, tracker_of
from attnrec_pipelines.stage_cache import log_stage
from attnrec_pipelines.stages.champion import split_key


def register_model(job: Job, histories: Path, trained: Path, served: Path, run_id: str, decision: Decision) -> Version:
    """Register the model to be served, and promote it if that was decided. A second call does nothing.

    Args:
        job: experiment and home.
        histories: the histories stage.
        trained: the training stage.
        served: the stage whose model is registered: the refit, or the training stage itself.
        run_id: the training run.
        decision: whether it becomes champion.
    """
    started = time.monotonic()
    tracker, name = tracker_of(job), job.experiment.tracking.registered_model
    key = read_json(served / "manifest.json")["key"]
    version = tracker.find_version(name, key)
    cached = version is not None
    if version is None:
        dataset = tracker.log_dataset(
            run_id, name=job.experiment.name, source=histories, content_hash=content_hash(histories)
        )
        run = tracker.client.get_run(run_id)
        test = {name: value for name, value in run.data.metrics.items() if name.startswith(("main/", "test/"))}
        saved = load_model(served / "model")
        with tempfile.TemporaryDirectory() as scratch:  # a copy without the files that only a warm start reads
            folder = Path(scratch) / "model"
            folder.mkdir()
            save_model(saved, folder)
            requirements = saved.model.package_requirements
            uri = tracker.log_model(run_id, folder, metrics=test, dataset=dataset, requirements=requirements)
        manifest = read_json(trained / "manifest.json")
        tags = {
            STAGE_KEY: key,
            TRAIN_KEY: manifest["key"],
            INIT_KEY: manifest["init"],
            SPLIT_KEY: split_key(job.experiment),
            EXPERIMENT: job.experiment.name,
            SERVED_STAGE: served.name,
            PROMOTED: str(decision.promoted).lower(),
        }
        description = f"{run.info.run_name} on {job.experiment.name}: {decision.reason}"
        version = tracker.register(name, uri, run_id=run_id, tags=tags, description=description)
    if decision.promoted:
        tracker.promote(version)
    summary = f"{version.label}{' is champion' if decision.promoted else ''}"
    log_stage("register", summary, seconds=None if cached else time.monotonic() - started)
    return version
