"""Stages 1 and 2: the raw log becomes clean interactions, and those become histories and a split."""

from pathlib import Path

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from attnrec.dataset import (
    Histories,
    Split,
    audit_split,
    histories_from_parts,
    join_predefined,
    split_by_time,
    split_last,
    split_predefined,
)
from attnrec.experiment import Experiment
from attnrec.ingestion import InteractionSource, ingest, source_fingerprint
from attnrec.storage import is_done, read_json
from attnrec_pipelines.artifacts import show_rejected
from attnrec_pipelines.job import Job, make_job
from attnrec_pipelines.stage_cache import build, folder_of, key_of


def ingest_log(job: Job, source: InteractionSource) -> Path:
    """Ingest one log, unless the same content was ingested before."""
    experiment = job.experiment
    tables = [table for table in (experiment.items, experiment.users) if table is not None]
    settings = [part.model_dump(mode="json", exclude={"path"}) for part in (source, *tables)]
    key = key_of("ingest", inputs=[source_fingerprint(source, *tables)], parameters={"settings": settings})
    folder = folder_of(job.home, "ingest", key)
    if not is_done(folder):
        ingest(source, folder, items=experiment.items, users=experiment.users)
    return folder


def gather_histories(job: Job, log: Path, test_log: Path | None = None) -> Path:
    """Make flat histories of ingested logs; a given test log is joined behind its train log."""
    dataset = job.experiment.dataset
    logs = [log] if test_log is None else [log, test_log]
    hashes = [read_json(folder / "manifest.json")["content_hash"] for folder in logs]
    key = key_of("histories", inputs=hashes, parameters=dataset.model_dump())

    def make(target: Path) -> dict[str, object]:
        parts = [_histories_of(folder, job.experiment) for folder in logs]
        histories, n_test = parts[0], None
        if test_log is not None:
            histories, n_test = join_predefined(parts[0], parts[1], seed=job.experiment.seed)
            np.save(target / "n_test.npy", n_test, allow_pickle=False)
        histories.save(target / "histories")
        n_read = sum(read_json(folder / "manifest.json")["accepted"] for folder in logs)
        return {
            "events": histories.n_events,
            "left_out": n_read - histories.n_events,
            "logs": [f.name for f in logs],
        }

    return build(job.home, "histories", key, make)


def load_split(experiment: Experiment, folder: Path) -> tuple[Histories, Split]:
    """Open a histories stage and cut it as the experiment says; a leaking split fails here.

    Raises:
        LeakageError: when training would see what is asked.
    """
    histories = Histories.load(folder / "histories")
    settings = experiment.split
    if settings.kind == "last":
        split = split_last(histories)
    elif settings.kind == "time":
        days = {"test_days": settings.test_days, "validation_days": settings.validation_days}
        split = split_by_time(histories, settings.cutoff, **days)
    else:
        n_test = np.load(folder / "n_test.npy")
        split = split_predefined(histories, n_test, validation_fraction=settings.validation_fraction)
    audit_split(split)
    return histories, split


def items_table(logs: tuple[Path, Path | None]) -> Path | None:
    """The ingested table of items, where the experiment has one."""
    path = logs[0] / "items.parquet"
    return path if path.is_file() else None


def _histories_of(log: Path, experiment: Experiment) -> Histories:
    manifest = read_json(log / "manifest.json")
    return histories_from_parts(
        sorted(log.glob("interactions/part=*/*.parquet")),
        time_kind=manifest["time_kind"],
        content_hash=manifest["content_hash"],
        min_item_events=experiment.dataset.min_item_events,
        min_user_events=experiment.dataset.min_user_events,
    )


def _is_outside(task_: object, run: object, state: object) -> bool:
    """Retry only what a second try can mend: the file system, not a bad log."""
    del task_, run
    try:
        state.result()  # type: ignore[attr-defined]
    except OSError:
        return True
    except Exception:
        return False
    return False


@task(
    name="ingest",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_outside,
)
def ingest_task(job: Job) -> tuple[Path, Path | None]:
    """The log, and the given test log if there is one; what was rejected is shown in Prefect."""
    source = job.experiment.interactions
    log = ingest_log(job, source)
    show_rejected(job.experiment.name, log)
    test_path = job.experiment.split.test_path
    if job.experiment.split.kind != "given" or test_path is None:
        return log, None
    return log, ingest_log(job, source.model_copy(update={"path": test_path}))


@task(name="gather-histories", cache_policy=NO_CACHE)
def histories_task(job: Job, logs: tuple[Path, Path | None]) -> Path:
    """Flat histories of the log."""
    return gather_histories(job, *logs)


@flow(name="ingest", log_prints=True)
def ingest_flow(experiment: str, overrides: tuple[str, ...] = (), home: str | None = None) -> Path:
    """Read the raw log, set bad rows aside with a reason, and keep the rest as histories."""
    job = make_job(experiment, overrides, home)
    logs = ingest_task(job)
    histories_task(job, logs)
    return logs[0]
