"""Stage: the raw log becomes clean interactions; rejected rows are kept with a reason."""

import time
from pathlib import Path

from attnrec.ingestion import InteractionSource, ingest, source_fingerprint
from attnrec.storage import is_done, read_json
from attnrec_pipelines.job import Job
from attnrec_pipelines.stage_cache import folder_of, key_of, log_stage


def ingest_logs(job: Job) -> tuple[Path, Path | None]:
    """Ingest the log and, with a predefined split, the test log; None where there is no test log."""
    source, split = job.experiment.interactions, job.experiment.split
    log = ingest_log(job, source)
    if split.kind != "predefined" or split.test_path is None:
        return log, None
    return log, ingest_log(job, source.model_copy(update={"path": split.test_path}))


def ingest_log(job: Job, source: InteractionSource) -> Path:
    """Ingest one log, unless the same content was ingested before."""
    experiment = job.experiment
    tables = [table for table in (experiment.items, experiment.users) if table is not None]
    settings = [part.model_dump(mode="json", exclude={"path"}) for part in (source, *tables)]
    key = key_of("ingest", inputs=[source_fingerprint(source, *tables)], parameters={"settings": settings})
    folder = folder_of(job.home, "ingest", key)
    started = time.monotonic()
    cached = is_done(folder)
    if not cached:
        ingest(source, folder, items=experiment.items, users=experiment.users)
    log_stage("ingest", ingest_summary(folder), seconds=None if cached else time.monotonic() - started)
    return folder


def ingest_summary(log: Path) -> str:
    """Describe an ingest stage in one line: rows read, accepted, and rejected by reason."""
    manifest = read_json(log / "manifest.json")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest["rejected_by_reason"].items())
    rejected = f"{manifest['rejected']:,} rejected" + (f" ({reasons})" if reasons else "")
    return f"{manifest['read']:,} rows read, {manifest['accepted']:,} accepted, {rejected}"


def items_table(logs: tuple[Path, Path | None]) -> Path | None:
    """Return the ingested table of items, or None if the experiment has none."""
    path = logs[0] / "items.parquet"
    return path if path.is_file() else None
