"""Stage: scored shards are checked, linked into one folder, and published by replacing one symbolic link."""

import os
import uuid
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from attnrec.storage import TEMPORARY, read_json, write_json
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.stage_cache import SUMMARY, build, key_of
from attnrec_pipelines.stages.champion import ScoringModel
from attnrec_pipelines.stages.report import ReportInputs
from attnrec_pipelines.stages.score import FILE

PARTS = "recommendations"
"""Folder of a publish stage that contains only Parquet files, so that any reader can open it as one table."""


def publish(job: Job, shards: list[Path], model: ScoringModel, at: datetime) -> Path:
    """Check the shards, link them into one folder, and point the symbolic link NAME/current to it.

    Returns:
        The folder that readers open.

    Raises:
        PipelineError: if a user is in two shards, or a score is not finite.
    """
    key = key_of("publish", inputs=[shard.name for shard in shards], parameters={"at": at.isoformat()})

    def make(target: Path) -> dict[str, Any]:
        n_users, n_rows = _check(shards)
        (target / PARTS).mkdir()
        for number, shard in enumerate(shards):
            os.link(shard / FILE, target / PARTS / f"part-{number:03d}.parquet")
        return {
            "n_users": n_users,
            "n_rows": n_rows,
            "model_version": model.label,
            "scored_at": at.isoformat(),
            SUMMARY: f"{n_rows:,} rows as of {at:%Y-%m-%d %H:%M} UTC",
        }

    folder = build(job.home, "publish", key, make)
    current = job.home.published / job.experiment.name / "current"
    current.parent.mkdir(parents=True, exist_ok=True)
    link = current.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}")
    link.symlink_to(os.path.relpath(folder / PARTS, current.parent))
    link.replace(current)
    return current


def write_current(job: Job, histories: Path, model: ScoringModel, published: Path, inputs: ReportInputs) -> None:
    """Write current.json: what `attnrec recommend`, `explain`, `faithfulness` and `report` use."""
    root = job.home.root
    stages = {name: path for name, path in asdict(inputs).items() if path is not None}
    content = {
        "experiment": job.experiment.name,
        "mlflow_experiment": job.experiment.mlflow_experiment,
        "plugins": list(job.experiment.plugins),
        "filter_viewed": job.experiment.score.filter_viewed,
        "report_inputs": {name: str(path.relative_to(root)) for name, path in stages.items()},
        "registered_model": job.experiment.tracking.registered_model,
        "histories": str(histories.relative_to(root)),
        "model": str(model.folder.relative_to(root)),
        "model_version": model.label,
        "recommendations": str(published.relative_to(root)),
    }
    write_json(job.home.current, content)


def with_last_evaluation(job: Job, model: ScoringModel, inputs: ReportInputs) -> ReportInputs:
    """Add the champion's last evaluation, when this run has not evaluated it."""
    if inputs.evaluated is not None or not job.home.current.exists():
        return inputs
    current = read_json(job.home.current)
    if current["model_version"] != model.label:
        return inputs
    last = current["report_inputs"]
    folders = {name: job.home.root / last[name] for name in ("evaluated", "measured") if name in last}
    return replace(inputs, **{name: folder for name, folder in folders.items() if folder.exists()})


def sample_of(published: Path, *, n_users: int = 3, k: int = 3) -> pd.DataFrame:
    """Read the first k recommendations of a few users."""
    first = pq.ParquetFile(published / "part-000.parquet")
    frame = next(first.iter_batches(batch_size=5_000)).to_pandas()
    users = frame["user_id"].drop_duplicates().head(n_users)
    return frame[frame["user_id"].isin(users) & (frame["rank"] <= k)]


def _check(shards: list[Path]) -> tuple[int, int]:
    n_users = n_rows = 0
    seen: set[str] = set()
    for shard in shards:
        table = pq.read_table(shard / FILE, columns=["user_id", "rank", "score"]).to_pandas()
        users = set(table["user_id"].unique())
        if table.duplicated(["user_id", "rank"]).any() or users & seen:
            raise PipelineError(
                f"published recommendations must contain each user and rank once, got repeats in {shard / FILE}; "
                "nothing was published"
            )
        if not np.isfinite(table["score"]).all():
            raise PipelineError(
                f"published scores must be finite, got non-finite ones in {shard / FILE}; nothing was published"
            )
        seen |= users
        n_users, n_rows = n_users + len(users), n_rows + len(table)
    return n_users, n_rows
