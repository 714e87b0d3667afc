"""Prefect tasks around the stages: retries of tasks that use MLflow or source files, artifacts on the run's page."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from attnrec.evaluation.promotion import Decision
from attnrec.faithfulness.files import load_faithfulness
from attnrec.storage import read_json
from attnrec.tracking.tracker import Version
from attnrec_pipelines.artifacts import (
    show_link,
    show_metrics,
    show_recommendations,
    show_rejected,
    show_table,
    show_text,
)
from attnrec_pipelines.job import Job
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stages.champion import ScoringModel, champion_model, check_registry
from attnrec_pipelines.stages.evaluate import evaluate_model
from attnrec_pipelines.stages.evaluation_files import CHALLENGER, metrics_of, segments_table, underperforming_segments
from attnrec_pipelines.stages.faithfulness import measure_faithfulness, unfaithful_reason
from attnrec_pipelines.stages.histories import gather_histories
from attnrec_pipelines.stages.ingest import ingest_logs
from attnrec_pipelines.stages.promote import decide_promotion
from attnrec_pipelines.stages.publish import publish, sample_of, write_current
from attnrec_pipelines.stages.record import add_report_link, record_run
from attnrec_pipelines.stages.register import register_model
from attnrec_pipelines.stages.report import PAGE, ReportInputs, build_report
from attnrec_pipelines.stages.score import score_shard
from attnrec_pipelines.stages.train import refit_model, train_model

FAITHFULNESS_COLUMNS = (
    *("pos_at_5", "neg_at_5", "deletion", "insertion", "comprehensiveness", "sufficiency", "tau", "stability"),
)
SHOWN_METRICS = ("hit_rate_at_10", "mrr_at_10", "coverage_at_10")

logger = logging.getLogger(__name__)


def _raised(state: object, *types: type[Exception]) -> bool:
    """Tell whether a task failed with one of these errors."""
    try:
        state.result()  # type: ignore[attr-defined]
    except types:
        return True
    except Exception:
        return False
    return False


def _failed_outside(task_: object, run: object, state: object) -> bool:
    """Retry errors of the file system and of MLflow's store, which may be transient; no others."""
    from mlflow.exceptions import MlflowException

    del task_, run
    return _raised(state, OSError, MlflowException)


ONCE: dict[str, Any] = {"cache_policy": NO_CACHE}
RETRIED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _failed_outside,
}


@task(name="check-registry", **RETRIED)
def check_registry_task(job: Job) -> None:
    """Fail before anything is trained if the registered model belongs to another experiment."""
    check_registry(job)


@task(name="ingest", **RETRIED)
def ingest_task(job: Job) -> tuple[Path, Path | None]:
    """Ingest the log and a predefined test log."""
    logs = ingest_logs(job)
    show_rejected(job.experiment.name, logs[0])
    return logs


@task(name="histories", **ONCE)
def histories_task(job: Job, logs: tuple[Path, Path | None]) -> Path:
    """Build the histories."""
    return gather_histories(job, *logs)


@task(name="train", **ONCE)
def train_task(job: Job, histories: Path, items: Path | None) -> Path:
    """Train, or find the model that was trained on the same data with the same settings."""
    return train_model(job, histories, items)


@task(name="evaluate", **ONCE)
def evaluate_task(job: Job, histories: Path, trained: Path, log: Path | None = None) -> Path:
    """Evaluate the model and the baselines on the test part; log a warning for each underperforming segment."""
    folder = evaluate_model(job, histories, trained, log)
    metric, metrics = job.experiment.promote.metric, metrics_of(folder)
    model = read_json(folder / "manifest.json")["model"]
    for sentence in underperforming_segments(folder):
        logger.warning("%s: %s", model, sentence)
    names = [name for name in dict.fromkeys((metric, *SHOWN_METRICS)) if name in metrics[CHALLENGER]]
    show_metrics(job.experiment.name, metrics, names)
    segments = segments_table(folder, metric).round(4).astype(str).to_dict("records")
    show_table(f"{job.experiment.name}-segments", segments, f"Test {metric.replace('_at_', '@')} by segment")
    return folder


@task(name="faithfulness", **ONCE)
def faithfulness_task(job: Job, histories: Path, trained: Path) -> Path | None:
    """Measure whether the model's reasons are faithful; log a warning if a control is better."""
    folder = measure_faithfulness(job, histories, trained)
    if folder is None:
        return None
    if problem := unfaithful_reason(folder):
        logger.warning("%s", problem)
    summary = load_faithfulness(folder).summary()
    rows = summary[["method", *(name for name in FAITHFULNESS_COLUMNS if name in summary)]].round(4).astype(str)
    show_table(f"{job.experiment.name}-faithfulness", rows.to_dict("records"), "Faithfulness by attribution method")
    return folder


@task(name="record", **RETRIED)
def record_task(
    job: Job,
    histories: Path,
    trained: Path,
    evaluated: Path,
    measured: Path | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    """Log the results to MLflow."""
    run_id = record_run(job, histories, trained, evaluated, measured, {**_prefect_tags(), **(tags or {})})
    show_text(f"{job.experiment.name}-mlflow", f"MLflow run `{run_id}` in `{job.experiment.mlflow_experiment}`")
    return run_id


@task(name="promote", **RETRIED)
def promote_task(job: Job, histories: Path, trained: Path, evaluated: Path, measured: Path | None = None) -> Decision:
    """Decide whether the challenger replaces the champion."""
    decision = decide_promotion(job, histories, trained, evaluated, measured)
    show_text(f"{job.experiment.name}-decision", f"promoted: **{decision.promoted}**\n\n{decision.reason}")
    return decision


@task(name="refit", **ONCE)
def refit_task(job: Job, histories: Path, trained: Path, items: Path | None) -> Path:
    """Train the served model on all events."""
    return refit_model(job, histories, trained, items)


@task(name="register", **RETRIED)
def register_task(job: Job, histories: Path, trained: Path, served: Path, run_id: str, decision: Decision) -> Version:
    """Register a version and move the aliases."""
    return register_model(job, histories, trained, served, run_id, decision)


@task(name="resolve-champion", **RETRIED)
def champion_task(job: Job) -> ScoringModel:
    """Resolve the champion to a model folder."""
    return champion_model(job)


@task(name="score-shard", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=exponential_backoff(backoff_factor=2))
def shard_task(job: Job, histories: Path, model: ScoringModel, at: datetime, shard: int, n_shards: int) -> Path:
    """Score one shard of the users."""
    return score_shard(job, histories, model, at, shard, n_shards)


@task(name="publish", **ONCE)
def publish_task(
    job: Job, histories: Path, shards: list[Path], model: ScoringModel, at: datetime, inputs: ReportInputs
) -> Path:
    """Check the shards and move the pointer."""
    published = publish(job, shards, model, at)
    write_current(job, histories, model, published, inputs)
    show_recommendations(job.experiment.name, sample_of(published))
    return published


@task(name="report", **ONCE)
def report_task(job: Job, histories: Path, model: ScoringModel, published: Path, inputs: ReportInputs) -> Path | None:
    """Write the report and log it to the champion's MLflow run."""
    folder = build_report(job, histories, model, published, inputs)
    if folder is None:
        return None
    page, tracker = folder / PAGE, tracker_of(job)
    champion, link = tracker.champion(job.experiment.tracking.registered_model), page.absolute().as_uri()
    if champion is not None and champion.label == model.label:
        link = tracker.log_file(champion.run_id, page, "report")  # every time: the artifact may have been deleted
        add_report_link(tracker, champion.run_id, f"report/{PAGE}")
    show_link(f"{job.experiment.name}-report", link, "Recommendations and their reasons")
    return page


def _prefect_tags() -> dict[str, str]:
    run_id = flow_run.id
    return {"prefect.flow_run_id": str(run_id), "prefect.flow_run_name": str(flow_run.name)} if run_id else {}
