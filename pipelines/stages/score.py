"""Stage: the top-k items of every user with their reasons, in shards."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from attnrec.dataset import Histories
from attnrec.models.saved_model import load_model
from attnrec.scoring import recommend
from attnrec.scoring.tables import to_table, write_table
from attnrec.storage import read_json
from attnrec_pipelines.job import Job
from attnrec_pipelines.progress import progress_bar
from attnrec_pipelines.stage_cache import SUMMARY, build, key_of
from attnrec_pipelines.stages.champion import ScoringModel

FILE = "recommendations.parquet"


def n_shards(job: Job, histories: Path) -> int:
    """Return the number of shards."""
    n_users = read_json(histories / "histories" / "manifest.json")["n_users"]
    return max(1, -(-n_users // job.experiment.score.users_per_shard))


def score_shard(job: Job, histories: Path, model: ScoringModel, at: datetime, shard: int, n_shards: int) -> Path:
    """Score one shard of the users.

    Args:
        job: experiment and home.
        histories: the histories stage, all events up to now.
        model: the champion.
        at: the run's logical time, written as scored_at.
        shard, n_shards: number of the shard, from 0, and of all shards; user rows are cut into equal ranges.

    Returns:
        A folder with `FILE`.
    """
    settings = job.experiment.score.model_dump(exclude={"batch_size", "users_per_shard"})
    parameters = settings | {"format": 4, "at": at.isoformat(), "shard": [shard, n_shards], "model": model.label}
    key = key_of("score", inputs=[histories.name, model.folder.parent.name], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        saved = load_model(model.folder)
        all_histories = Histories.load(histories / "histories")
        if not all_histories.item_ids.index.equals(saved.item_ids.index):
            all_histories = all_histories.recode(saved.item_ids)
        users = np.array_split(np.arange(all_histories.n_users), n_shards)[shard]
        with progress_bar(f"score {shard + 1}/{n_shards}", total=len(users)) as advance:
            recommendations = recommend(
                saved.model, all_histories, users, config=job.experiment.score, on_batch=advance
            )
        table = to_table(recommendations, all_histories, model_version=model.label, scored_at=at)
        write_table(table, target / FILE)
        summary = f"{table.num_rows:,} recommendations for {len(users):,} users by {model.label}"
        part = f" (shard {shard + 1} of {n_shards})" if n_shards > 1 else ""
        return {"n_users": len(users), "n_rows": table.num_rows, SUMMARY: summary + part}

    return build(job.home, "score", key, make)
