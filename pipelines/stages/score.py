"""Stage 7: every user's best items with their reasons, shard by shard, then published by moving one pointer."""

import logging
import os
import uuid
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from attnrec.dataset import Histories
from attnrec.models.saved_model import load_model
from attnrec.scoring.recommendations import recommend
from attnrec.scoring.tables import to_table, write_table
from attnrec.storage import TEMPORARY, read_json, write_json
from attnrec_pipelines.artifacts import show_recommendations
from attnrec_pipelines.job import Job, PipelineError, logical_time, make_job
from attnrec_pipelines.progress import bar
from attnrec_pipelines.stage_cache import build, key_of
from attnrec_pipelines.stages.ingest import histories_task, ingest_task, items_table
from attnrec_pipelines.stages.register import Served, champion_task
from attnrec_pipelines.stages.report import About, report_task

PARTS = "recommendations"
"""Folder of a publish stage that holds nothing but Parquet, so that any reader can open it as one table."""

logger = logging.getLogger(__name__)


def score_shard(job: Job, histories: Path, served: Served, at: datetime, shard: int, n_shards: int) -> Path:
    """Score one share of the users; a shard that exists is not computed again.

    Args:
        job: experiment and home.
        histories: the histories stage, all events up to now.
        served: the champion.
        at: the run's logical time, written as scored_at.
        shard, n_shards: which share of the user rows, cut into equal runs.

    Returns:
        A folder with recommendations.parquet.
    """
    settings = job.experiment.score.model_dump(exclude={"batch_size", "users_per_shard"})
    parameters = settings | {"format": 3, "at": at.isoformat(), "shard": [shard, n_shards], "model": served.label}
    key = key_of("score", inputs=[histories.name, served.folder.parent.name], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        saved = load_model(served.folder)
        known = Histories.load(histories / "histories")
        own = known.item_ids.index.equals(saved.item_ids.index)
        known = known if own else known.recode(saved.item_ids)
        users = np.array_split(np.arange(known.n_users), n_shards)[shard]
        with bar(f"score {shard + 1}/{n_shards}", total=len(users)) as done:
            found = recommend(saved.model, known, users, config=job.experiment.score, on_batch=done)
        table = to_table(found, known, model_version=served.label, scored_at=at)
        write_table(table, target / "recommendations.parquet")
        return {"n_users": len(users), "n_rows": table.num_rows}

    return build(job.home, "score", key, make)


def publish(job: Job, shards: list[Path], served: Served, at: datetime) -> Path:
    """Check the shards, put them side by side and move the pointer NAME/current to them.

    Returns:
        The folder that readers read.

    Raises:
        PipelineError: when the shards do not hold each user once, with a finite score.
    """
    key = key_of("publish", inputs=[shard.name for shard in shards], parameters={"at": at.isoformat()})

    def make(target: Path) -> dict[str, Any]:
        n_users, n_rows = _check(shards)
        (target / PARTS).mkdir()
        for number, shard in enumerate(shards):
            os.link(shard / "recommendations.parquet", target / PARTS / f"part-{number:03d}.parquet")
        return {
            "n_users": n_users,
            "n_rows": n_rows,
            "model_version": served.label,
            "scored_at": at.isoformat(),
        }

    folder = build(job.home, "publish", key, make)
    current = job.home.published / job.experiment.name / "current"
    current.parent.mkdir(parents=True, exist_ok=True)
    beside = current.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}")
    beside.symlink_to(os.path.relpath(folder / PARTS, current.parent))
    beside.replace(current)
    return current


def remember(job: Job, histories: Path, served: Served, published: Path, about: About) -> None:
    """Write down what was used last, for `attnrec recommend`, `explain`, `faithfulness` and `report`."""
    known = {name: path for name, path in asdict(about).items() if path is not None}
    facts = {
        "experiment": job.experiment.name,
        "filter_viewed": job.experiment.score.filter_viewed,
        "about": {name: str(path.relative_to(job.home.root)) for name, path in known.items()},
        "registered_model": job.experiment.tracking.registered_model,
        "histories": str(histories.relative_to(job.home.root)),
        "model": str(served.folder.relative_to(job.home.root)),
        "model_version": served.label,
        "recommendations": str(published.relative_to(job.home.root)),
    }
    write_json(job.home.root / "current.json", facts)


def completed(job: Job, served: Served, about: About) -> About:
    """What was known of the served model when it scored last, where this run has not judged it."""
    current = job.home.root / "current.json"
    if about.evaluated is not None or not current.exists():
        return about
    facts = read_json(current)
    if facts["model_version"] != served.label:
        return about
    known = {name: job.home.root / facts["about"][name] for name in ("evaluated", "measured") if name in facts["about"]}
    return replace(about, **{name: folder for name, folder in known.items() if folder.exists()})


def sample_of(published: Path, *, n_users: int = 3, k: int = 3) -> pd.DataFrame:
    """The first places of a few users, read back from what was published."""
    first = pq.ParquetFile(published / "part-000.parquet")
    frame = next(first.iter_batches(batch_size=5_000)).to_pandas()
    users = frame["user_id"].drop_duplicates().head(n_users)
    return frame[frame["user_id"].isin(users) & (frame["rank"] <= k)]


def _check(shards: list[Path]) -> tuple[int, int]:
    n_users = n_rows = 0
    seen: set[str] = set()
    for shard in shards:
        table = pq.read_table(shard / "recommendations.parquet", columns=["user_id", "rank", "score"]).to_pandas()
        users = set(table["user_id"].unique())
        if table.duplicated(["user_id", "rank"]).any() or users & seen:
            raise PipelineError(
                "published recommendations must hold each user and rank once, got repeats; nothing is published"
            )
        if not np.isfinite(table["score"]).all():
            raise PipelineError("published scores must be finite, got others; nothing is published")
        seen |= users
        n_users, n_rows = n_users + len(users), n_rows + len(table)
    return n_users, n_rows


@task(
    name="score-shard",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
)
def shard_task(job: Job, histories: Path, served: Served, at: datetime, shard: int, n_shards: int) -> Path:
    """One share of the users."""
    return score_shard(job, histories, served, at, shard, n_shards)


@task(name="publish", cache_policy=NO_CACHE)
def publish_task(job: Job, histories: Path, shards: list[Path], served: Served, at: datetime, about: About) -> Path:
    """Checks, then the pointer."""
    published = publish(job, shards, served, at)
    remember(job, histories, served, published, about)
    show_recommendations(job.experiment.name, sample_of(published))
    return published


def score_all(job: Job, histories: Path, served: Served, at: datetime, about: About) -> tuple[Path, Path | None]:
    """The scoring part of a flow: shards one after another (each uses all cores), publication, the page.

    Returns:
        The folder that readers read, and report.html; None where no page is asked for.
    """
    n_users = read_json(histories / "histories" / "manifest.json")["n_users"]
    n_shards = max(1, -(-n_users // job.experiment.score.users_per_shard))
    shards = [shard_task(job, histories, served, at, shard, n_shards) for shard in range(n_shards)]
    about = completed(job, served, about)
    published = publish_task(job, histories, shards, served, at, about)
    return published, report_task(job, histories, served, published, about)


@flow(name="score", log_prints=True)
def score_flow(
    experiment: str, overrides: tuple[str, ...] = (), home: str | None = None, at: datetime | None = None
) -> Path:
    """Write the k best items of every user, each with its reasons, by the champion."""
    job = make_job(experiment, overrides, home)
    logs = ingest_task(job)
    about = About(items=items_table(logs))
    return score_all(job, histories_task(job, logs), champion_task(job), logical_time(at), about)[0]
