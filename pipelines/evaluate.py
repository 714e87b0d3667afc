"""Stage 4: test metrics of the trained model, of the baselines, and of the champion on the same users."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from attnrec.dataset import Split
from attnrec.evaluation import Evaluation, evaluate
from attnrec.models import build_model
from attnrec.models.folder import SavedModel, load_model
from attnrec.models.item_knn import ItemKNNConfig
from attnrec.models.popularity import PopularityConfig
from attnrec.storage import is_done, read_json, write_json
from attnrec.tracking import EVALUATED, TRAIN_KEY, Tracker, Version
from pipelines.artifacts import show_metrics
from pipelines.bars import bar
from pipelines.ingest import load_split
from pipelines.job import Job
from pipelines.stages import build, folder_of, key_of

BASELINES = (PopularityConfig(), ItemKNNConfig())
"""What every model is compared with."""

logger = logging.getLogger(__name__)


def evaluate_model(job: Job, histories: Path, trained: Path) -> Path:
    """Judge a trained model and the baselines on the test part, once.

    Returns:
        A folder with metrics.json (by model: metrics, intervals, n_users) and NAME.parquet, one row per user.
    """
    settings = job.experiment.evaluate.model_dump()
    inputs = [read_json(trained / "manifest.json")["key"]]
    key = key_of("evaluate", inputs=inputs, parameters=settings | {"baselines": [b.kind for b in BASELINES]})

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        saved = load_model(trained / "model")
        found = {"challenger": _judge(job, saved, split)}
        for config in BASELINES:
            baseline = build_model(config, split.train.n_items)
            baseline.observe(split.train)
            found[config.kind] = _judge(job, SavedModel(baseline, saved.item_ids), split)
        for name, evaluation in found.items():
            evaluation.per_user.to_parquet(target / f"{name}.parquet", index=False)
        write_json(target / "metrics.json", {name: evaluation.to_json() for name, evaluation in found.items()})
        return {"model": saved.model.description}

    return build(job.home, "evaluate", key, make)


def judge_champion(job: Job, histories: Path, champion: Version, tracker: Tracker) -> Path:
    """Judge the champion, as it was before its refit, on today's test users.

    Returns:
        A folder with metrics.json and champion.parquet.
    """
    parameters = {
        "evaluate": job.experiment.evaluate.model_dump(),
        "split": job.experiment.split.model_dump(mode="json", exclude={"test_path"}),
        "champion": champion.tags[TRAIN_KEY],
    }
    key = key_of("judge", inputs=[histories.name], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        with tempfile.TemporaryDirectory() as scratch:
            evaluation = _judge(job, load_model(_evaluated_folder(job, champion, tracker, Path(scratch))), split)
        evaluation.per_user.to_parquet(target / "champion.parquet", index=False)
        write_json(target / "metrics.json", {"champion": evaluation.to_json()})
        return {"model": champion.label}

    return build(job.home, "judge", key, make)


def metrics_of(folder: Path) -> dict[str, dict[str, float]]:
    """Test metrics by model, from an evaluate or judge stage."""
    return {name: found["metrics"] for name, found in read_json(folder / "metrics.json").items()}


def _judge(job: Job, saved: SavedModel, split: Split) -> Evaluation:
    settings = job.experiment.evaluate
    own = saved.item_ids.index.equals(split.train.item_ids.index)
    with bar(f"evaluate {saved.model.description}", total=len(split.test.users)) as done:
        return evaluate(
            saved.model,
            split.test,
            ks=settings.ks,
            filter_viewed=settings.filter_viewed,
            item_ids=None if own else saved.item_ids,
            on_batch=done,
        )


def _evaluated_folder(job: Job, champion: Version, tracker: Tracker, scratch: Path) -> Path:
    """The champion's model before its refit: this home's own stage, or the copy in MLflow."""
    trained = folder_of(job.home, "train", champion.tags[TRAIN_KEY])
    if is_done(trained):
        return trained / "model"
    return tracker.download(champion.run_id, EVALUATED, scratch)


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_task(job: Job, histories: Path, trained: Path) -> Path:
    """Test metrics beside the baselines', shown in Prefect."""
    folder = evaluate_model(job, histories, trained)
    metric = job.experiment.promote.metric
    names = [metric, *(name for name in ("hit_rate_at_10", "mrr_at_10", "coverage_at_10") if name != metric)]
    metrics = metrics_of(folder)
    show_metrics(job.experiment.name, metrics, [name for name in names if name in metrics["challenger"]])
    return folder
