"""Flow `compare`: several variants of an experiment on one log and one split, with equal training time."""

import logging
from pathlib import Path

from prefect import flow

from attnrec.experiment import ExperimentError
from attnrec.tracking.tags import COMPARISON, DESCRIPTION, EXPERIMENT, ROLE
from attnrec.tracking.tracker import Tracker
from attnrec_pipelines.artifacts import show_table
from attnrec_pipelines.flows.tasks import evaluate_task, histories_task, ingest_task, record_task, train_task
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stage_cache import key_of
from attnrec_pipelines.stages.compare import ComparedModel, compare_models, read_comparison
from attnrec_pipelines.stages.ingest import items_table
from attnrec_pipelines.stages.variants import variants

logger = logging.getLogger(__name__)


@flow(name="compare", log_prints=True)
def compare_flow(experiment: str, over: str, overrides: tuple[str, ...] = (), home: str | None = None) -> Path:
    """Train and evaluate one variant per value of a setting; a variant that fails is left out of the table.

    Returns:
        The folder of the comparison.
    """
    jobs = variants(experiment, over, overrides, home)
    first = next(iter(jobs.values()))
    if first.experiment.train.max_minutes is None:
        raise ExperimentError("a comparison needs equal training time; set train.max_minutes or give --minutes")
    logs = ingest_task(first)
    histories = histories_task(first, logs)
    models: dict[str, ComparedModel] = {}
    for number, (name, job) in enumerate(jobs.items(), start=1):
        logger.info("%s", f"-- {name} ({number} of {len(jobs)})")
        try:
            trained = train_task(job, histories, items_table(logs))
        except PipelineError as error:
            logger.warning("%s is left out: %s", name, error)
            continue
        models[name] = ComparedModel(job, trained, evaluate_task(job, histories, trained, logs[0]))
        record_task(job, histories, trained, models[name].evaluated, None, {COMPARISON: over})
    if not models:
        raise PipelineError("no variant of the comparison could be trained; see the warnings above")
    folder = compare_models(models, key=over.partition("=")[0])
    record_comparison(tracker_of(first), first, folder, over=over)
    return folder


def record_comparison(tracker: Tracker, job: Job, folder: Path, *, over: str) -> None:
    """Log a comparison as a separate run, in addition to those of its models; its table is the description."""
    key = key_of("comparison", inputs=[], parameters={"over": over, "experiment": job.experiment.name})
    run_id = tracker.find_run(key) or tracker.open_run(
        f"comparison over {over.partition('=')[0]}",
        stage_key=key,
        params={"over": over, "data": job.experiment.name},
        settings=job.experiment.model_dump(mode="json"),
        tags={ROLE: "comparison", COMPARISON: over, EXPERIMENT: job.experiment.name},
    )
    table = read_comparison(folder)
    tracker.log_table(run_id, table, "comparison.json")
    tracker.log_folder(run_id, folder, "comparison")
    tracker.set_tags(run_id, {DESCRIPTION: (folder / "comparison.md").read_text()})
    tracker.close_run(run_id)
    show_table("comparison", table.astype(str).to_dict("records"), "Models compared")
