"""Flow `score`: ingest -> score all users with the champion -> publish -> report."""

from datetime import datetime
from pathlib import Path

from prefect import flow

from attnrec_pipelines.flows.tasks import (
    champion_task,
    histories_task,
    ingest_task,
    publish_task,
    report_task,
    shard_task,
)
from attnrec_pipelines.job import Job, logical_time, make_job
from attnrec_pipelines.stages.champion import ScoringModel
from attnrec_pipelines.stages.ingest import items_table
from attnrec_pipelines.stages.publish import with_last_evaluation
from attnrec_pipelines.stages.report import ReportInputs
from attnrec_pipelines.stages.score import n_shards


@flow(name="score", log_prints=True)
def score_flow(
    experiment: str, overrides: tuple[str, ...] = (), home: str | None = None, at: datetime | None = None
) -> Path:
    """Write the top-k items of every user, each with its reasons, by the champion.

    Returns:
        The folder that readers open.
    """
    job = make_job(experiment, overrides, home)
    logs = ingest_task(job)
    histories = histories_task(job, logs)
    inputs = ReportInputs(items=items_table(logs))
    return score_and_publish(job, histories, champion_task(job), logical_time(at), inputs)[0]


def score_and_publish(
    job: Job, histories: Path, model: ScoringModel, at: datetime, inputs: ReportInputs
) -> tuple[Path, Path | None]:
    """Score the shards one after another (each uses all cores), publish them, and write the report.

    Returns:
        The folder that readers open, and report.html; None if no report is configured.
    """
    total = n_shards(job, histories)
    shards = [shard_task(job, histories, model, at, shard, total) for shard in range(total)]
    inputs = with_last_evaluation(job, model, inputs)
    published = publish_task(job, histories, shards, model, at, inputs)
    return published, report_task(job, histories, model, published, inputs)
