"""Flow `train`: ingest -> train -> evaluate -> measure faithfulness -> record."""

from pathlib import Path

from prefect import flow

from attnrec_pipelines.flows.tasks import (
    evaluate_task,
    faithfulness_task,
    histories_task,
    ingest_task,
    record_task,
    train_task,
)
from attnrec_pipelines.job import make_job
from attnrec_pipelines.stages.ingest import items_table


@flow(name="train", log_prints=True)
def train_flow(experiment: str, overrides: tuple[str, ...] = (), home: str | None = None) -> tuple[Path, Path]:
    """Train and evaluate one experiment and log it to MLflow; nothing is registered.

    Returns:
        The training and the evaluation stage.
    """
    job = make_job(experiment, overrides, home)
    logs = ingest_task(job)
    histories = histories_task(job, logs)
    trained = train_task(job, histories, items_table(logs))
    evaluated = evaluate_task(job, histories, trained, logs[0])
    measured = faithfulness_task(job, histories, trained)
    record_task(job, histories, trained, evaluated, measured)
    return trained, evaluated
