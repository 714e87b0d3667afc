"""Stage 4: test metrics of the trained model, the baselines and the champion on the same users, and by segment."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from attnrec.dataset import Features, Split, load_features
from attnrec.evaluation.evaluator import evaluate
from attnrec.evaluation.list_quality import BeyondAccuracy, measure_beyond_accuracy
from attnrec.evaluation.segments import segments_of, underperforming_sentences
from attnrec.models import build_model
from attnrec.models.item_knn import ItemKNNConfig
from attnrec.models.popularity import PopularityConfig
from attnrec.models.saved_model import SavedModel, load_model
from attnrec.storage import is_done, read_json
from attnrec.tracking.tracker import EVALUATED, TRAIN_KEY, Tracker, Version
from attnrec_pipelines.artifacts import show_metrics, show_table
from attnrec_pipelines.job import Job
from attnrec_pipelines.progress import bar
from attnrec_pipelines.stage_cache import build, digest_of, folder_of, key_of
from attnrec_pipelines.stages.ingest import load_split
from attnrec_pipelines.stages.segments import (
    CHALLENGER,
    place_of,
    segments_table,
    underperforming_segments,
    write_tables,
)

BASELINES = (PopularityConfig(), ItemKNNConfig())
"""What every model is compared with."""

logger = logging.getLogger(__name__)


def evaluate_model(job: Job, histories: Path, trained: Path, log: Path | None = None) -> Path:
    """Judge a trained model and the baselines on the test part, once.

    Args:
        job: experiment and home.
        histories: the histories stage.
        trained: the training stage.
        log: the ingest stage, whose tables of items and users, where it has them, describe lists and segments.

    Returns:
        A folder with metrics.json (by model: metrics, intervals, n_users), NAME.parquet, one row per user, and the
        tables of `tables_of`. Its manifest has a sentence for each segment of the trained model that is underperforming.
    """
    tables = {} if log is None else {name: log / f"{name}.parquet" for name in ("items", "users")}
    tables = {name: path for name, path in tables.items() if path.is_file()}
    parameters = _asked(job) | {"baselines": [baseline.kind for baseline in BASELINES]}
    parameters |= {name: digest_of(path) for name, path in tables.items()}
    key = key_of("evaluate", inputs=[read_json(trained / "manifest.json")["key"]], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        seen = split.test.histories
        items = load_features(tables["items"], seen.item_ids) if "items" in tables else None
        users = load_features(tables["users"], seen.user_ids) if "users" in tables else None
        saved = load_model(trained / "model")
        found = {CHALLENGER: _judge(job, saved, split, items)}
        for config in BASELINES:
            baseline = build_model(config, split.train.n_items)
            baseline.observe(split.train)
            found[config.kind] = _judge(job, SavedModel(baseline, saved.item_ids), split, items)
        metric = job.experiment.promote.metric
        write_tables(target, found, segments_of(split.test, users), metric=metric)
        underperforming = underperforming_sentences(segments_table(target, metric), metric)
        return {"model": saved.model.description, "underperforming": underperforming}

    return build(job.home, "evaluate", key, make)


def judge_champion(job: Job, histories: Path, champion: Version, tracker: Tracker) -> Path:
    """Judge the champion, as it was before its refit, on today's test users.

    Returns:
        A folder with metrics.json, champion.parquet and the tables of `tables_of`, which know no columns of items or
        users.
    """
    parameters = {
        "evaluate": _asked(job),
        "split": job.experiment.split.model_dump(mode="json", exclude={"test_path"}),
        "champion": champion.tags[TRAIN_KEY],
    }
    key = key_of("judge", inputs=[histories.name], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        with tempfile.TemporaryDirectory() as scratch:
            judged = _judge(job, load_model(_evaluated_folder(job, champion, tracker, Path(scratch))), split)
        write_tables(target, {"champion": judged}, segments_of(split.test), metric=job.experiment.promote.metric)
        return {"model": champion.label}

    return build(job.home, "judge", key, make)


def metrics_of(folder: Path) -> dict[str, dict[str, float]]:
    """Test metrics by model, from an evaluate or judge stage."""
    return {name: found["metrics"] for name, found in read_json(folder / "metrics.json").items()}


def _asked(job: Job) -> dict[str, Any]:
    """The settings that an evaluation depends on."""
    return job.experiment.evaluate.model_dump() | {"metric": job.experiment.promote.metric}


def _judge(job: Job, saved: SavedModel, split: Split, items: Features | None = None) -> BeyondAccuracy:
    settings = job.experiment.evaluate
    own = saved.item_ids.index.equals(split.train.item_ids.index)
    with bar(f"evaluate {saved.model.description}", total=len(split.test.users)) as done:
        found = evaluate(
            saved.model,
            split.test,
            ks=settings.ks,
            filter_viewed=settings.filter_viewed,
            item_ids=None if own else saved.item_ids,
            on_batch=done,
        )
    return measure_beyond_accuracy(found, split.test, k=place_of(job.experiment.promote.metric), features=items)


def _evaluated_folder(job: Job, champion: Version, tracker: Tracker, scratch: Path) -> Path:
    """The champion's model before its refit: this home's own stage, or the copy in MLflow."""
    trained = folder_of(job.home, "train", champion.tags[TRAIN_KEY])
    if is_done(trained):
        return trained / "model"
    return tracker.download(champion.run_id, EVALUATED, scratch)


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_task(job: Job, histories: Path, trained: Path, log: Path | None = None) -> Path:
    """Test metrics beside the baselines', and by segment, shown in Prefect; a warning for each segment that lags."""
    folder = evaluate_model(job, histories, trained, log)
    metric = job.experiment.promote.metric
    names = [metric, *(name for name in ("hit_rate_at_10", "mrr_at_10", "coverage_at_10") if name != metric)]
    metrics = metrics_of(folder)
    model = read_json(folder / "manifest.json")["model"]
    for sentence in underperforming_segments(folder):
        logger.warning("%s: %s", model, sentence)
    show_metrics(job.experiment.name, metrics, [name for name in names if name in metrics[CHALLENGER]])
    segments = segments_table(folder, metric).round(4).astype(str).to_dict("records")
    show_table(f"{job.experiment.name}-segments", segments, f"Test {metric} by segment of users")
    return folder
