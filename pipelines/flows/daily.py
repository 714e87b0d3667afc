"""Flow `daily`: ingest -> train -> evaluate -> measure faithfulness -> promote -> refit -> register -> score."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prefect import flow

from attnrec.evaluation.promotion import Decision
from attnrec_pipelines.flows.score import score_and_publish
from attnrec_pipelines.flows.tasks import (
    champion_task,
    check_registry_task,
    evaluate_task,
    faithfulness_task,
    histories_task,
    ingest_task,
    promote_task,
    record_task,
    refit_task,
    register_task,
    train_task,
)
from attnrec_pipelines.job import logical_time, make_job
from attnrec_pipelines.stage_cache import sweep
from attnrec_pipelines.stages.ingest import items_table
from attnrec_pipelines.stages.report import ReportInputs


@dataclass(frozen=True)
class DailyResult:
    """The results of a daily run.

    Attributes:
        log, histories, trained, evaluated: stage folders.
        decision: whether the new model was promoted.
        model_version: the version that is served now.
        published: the folder of recommendations.
        page: the report; None if no report is configured.
    """

    log: Path
    histories: Path
    trained: Path
    evaluated: Path
    decision: Decision
    model_version: str
    published: Path
    page: Path | None


@flow(name="daily", log_prints=True)
def daily_flow(
    experiment: str, overrides: tuple[str, ...] = (), home: str | None = None, at: datetime | None = None
) -> DailyResult:
    """Bring the recommendations up to date; a second run does nothing, a killed run resumes."""
    job = make_job(experiment, overrides, home)
    sweep(job.home)
    check_registry_task(job)
    logs = ingest_task(job)
    histories, items = histories_task(job, logs), items_table(logs)
    trained = train_task(job, histories, items)
    evaluated = evaluate_task(job, histories, trained, logs[0])
    measured = faithfulness_task(job, histories, trained)
    run_id = record_task(job, histories, trained, evaluated, measured)
    decision = promote_task(job, histories, trained, evaluated, measured)
    refit = decision.promoted and job.experiment.pipeline.refit
    served = refit_task(job, histories, trained, items) if refit else trained
    register_task(job, histories, trained, served, run_id, decision)
    champion = champion_task(job)
    inputs = ReportInputs(items, evaluated, measured) if decision.promoted else ReportInputs(items)
    published, page = score_and_publish(job, histories, champion, logical_time(at), inputs)
    return DailyResult(logs[0], histories, trained, evaluated, decision, champion.label, published, page)
