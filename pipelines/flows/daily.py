"""The daily run: ingest -> train -> evaluate and measure faithfulness -> decide -> refit -> register -> score."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prefect import flow

from attnrec.evaluation.promotion import Decision
from attnrec_pipelines.job import logical_time, make_job
from attnrec_pipelines.stage_cache import sweep
from attnrec_pipelines.stages.evaluate import evaluate_task
from attnrec_pipelines.stages.faithfulness import faithfulness_task
from attnrec_pipelines.stages.ingest import histories_task, ingest_task, items_table
from attnrec_pipelines.stages.register import champion_task, check_task, decide_task, record_task, register_task
from attnrec_pipelines.stages.report import About
from attnrec_pipelines.stages.score import score_all
from attnrec_pipelines.stages.train import refit_task, train_task


@dataclass(frozen=True)
class DailyResult:
    """Where a daily run left things.

    Attributes:
        log, histories, trained, evaluated: stage folders.
        decision: whether the new model is served.
        model_version: what is served now.
        published: the folder of recommendations.
        page: the page of recommendations with their reasons; None where none is asked for.
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
    """Bring recommendations up to date: a second run does nothing, a killed one goes on where it was."""
    job = make_job(experiment, overrides, home)
    sweep(job.home)
    check_task(job)
    logs = ingest_task(job)
    histories, items = histories_task(job, logs), items_table(logs)
    trained = train_task(job, histories, items)
    evaluated = evaluate_task(job, histories, trained, logs[0])
    measured = faithfulness_task(job, histories, trained)
    run_id = record_task(job, histories, trained, evaluated, measured)
    decision = decide_task(job, histories, trained, evaluated, measured)
    refit = decision.promoted and job.experiment.pipeline.refit
    served = refit_task(job, histories, trained, items) if refit else trained
    register_task(job, histories, trained, served, run_id, decision)
    champion = champion_task(job)
    about = About(items, evaluated, measured) if decision.promoted else About(items)
    published, page = score_all(job, histories, champion, logical_time(at), about)
    return DailyResult(logs[0], histories, trained, evaluated, decision, champion.label, published, page)
