"""Flow `ingest`: raw log -> clean interactions -> histories."""

from pathlib import Path

from prefect import flow

from attnrec_pipelines.flows.tasks import histories_task, ingest_task
from attnrec_pipelines.job import make_job


@flow(name="ingest", log_prints=True)
def ingest_flow(experiment: str, overrides: tuple[str, ...] = (), home: str | None = None) -> Path:
    """Read the raw log, reject bad rows with a reason, and build histories of the others.

    Returns:
        The ingest stage.
    """
    job = make_job(experiment, overrides, home)
    logs = ingest_task(job)
    histories_task(job, logs)
    return logs[0]
