"""Stage: test metrics of the trained model, the baselines and the champion on the same users, and by segment."""

import tempfile
from pathlib import Path
from typing import Any

from attnrec.dataset import Features, Split, load_features
from attnrec.evaluation import evaluate
from attnrec.evaluation.list_quality import BeyondAccuracy, measure_beyond_accuracy
from attnrec.evaluation.segments import segments_of, underperforming_sentences
from attnrec.models import build_model
from attnrec.models.item_knn import ItemKNNConfig
from attnrec.models.popularity import PopularityConfig
from attnrec.models.saved_model import SavedModel, load_model
from attnrec.storage import is_done, read_json
from attnrec.tracking.tags import EVALUATED_MODEL, TRAIN_KEY
from attnrec.tracking.tracker import Tracker, Version
from attnrec_pipelines.job import Job
from attnrec_pipelines.progress import progress_bar
from attnrec_pipelines.stage_cache import SUMMARY, build, digest_of, folder_of, key_of
from attnrec_pipelines.stages.evaluation_files import CHALLENGER, k_of, metrics_of, segments_table, write_tables
from attnrec_pipelines.stages.histories import load_split

BASELINES = (PopularityConfig(), ItemKNNConfig())
"""Every trained model is compared with these."""


def evaluate_model(job: Job, histories: Path, trained: Path, log: Path | None = None) -> Path:
    """Evaluate a trained model and the baselines on the test part, once.

    Args:
        job: experiment and home.
        histories: the histories stage.
        trained: the training stage.
        log: the ingest stage, whose tables of items and users describe lists and segments.

    Returns:
        A folder with metrics.json (by model: metrics, intervals, n_users), NAME.parquet, one row per user, and the
        tables of `tables_of`. Its manifest has a sentence for each underperforming segment of the trained model.
    """
    tables = {} if log is None else {name: log / f"{name}.parquet" for name in ("items", "users")}
    tables = {name: path for name, path in tables.items() if path.is_file()}
    metric = job.experiment.promote.metric
    parameters = _settings(job) | {"baselines": [baseline.kind for baseline in BASELINES]}
    parameters |= {name: digest_of(path) for name, path in tables.items()}
    key = key_of("evaluate", inputs=[read_json(trained / "manifest.json")["key"]], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        visible = split.test.histories
        items = load_features(tables["items"], visible.item_ids) if "items" in tables else None
        users = load_features(tables["users"], visible.user_ids) if "users" in tables else None
        saved = load_model(trained / "model")
        results = {CHALLENGER: _evaluate(job, saved, split, items)}
        for config in BASELINES:
            baseline = build_model(config, split.train.n_items)
            baseline.observe(split.train)
            results[config.kind] = _evaluate(job, SavedModel(baseline, saved.item_ids), split, items)
        write_tables(target, results, segments_of(split.test, users), metric=metric)
        sentences = underperforming_sentences(segments_table(target, metric), metric)
        summary = _summary(
            metrics_of(target), metric, n_users=read_json(target / "metrics.json")[CHALLENGER]["n_users"]
        )
        return {"model": saved.model.description, "underperforming": sentences, SUMMARY: summary}

    return build(job.home, "evaluate", key, make)


def evaluate_champion(job: Job, histories: Path, champion: Version, tracker: Tracker) -> Path:
    """Evaluate the champion, as it was before its refit, on today's test users.

    Returns:
        A folder with metrics.json, champion.parquet and the tables of `tables_of`, without columns of items or users.
    """
    metric = job.experiment.promote.metric
    parameters = {
        "evaluate": _settings(job),
        "split": job.experiment.split.model_dump(mode="json", exclude={"test_path"}),
        "champion": champion.tags[TRAIN_KEY],
    }
    key = key_of("evaluate-champion", inputs=[histories.name], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        with tempfile.TemporaryDirectory() as scratch:
            saved = load_model(_evaluated_folder(job, champion, tracker, Path(scratch)))
            result = _evaluate(job, saved, split)
        write_tables(target, {"champion": result}, segments_of(split.test), metric=metric)
        value = metrics_of(target)["champion"][metric]
        return {"model": champion.label, SUMMARY: f"{champion.label}: {metric.replace('_at_', '@')} {value:.4f}"}

    return build(job.home, "champion-eval", key, make)


def _settings(job: Job) -> dict[str, Any]:
    """Return the settings that an evaluation depends on."""
    return job.experiment.evaluate.model_dump() | {"metric": job.experiment.promote.metric}


def _evaluate(job: Job, saved: SavedModel, split: Split, items: Features | None = None) -> BeyondAccuracy:
    settings = job.experiment.evaluate
    same_catalogue = saved.item_ids.index.equals(split.train.item_ids.index)
    with progress_bar(f"evaluate {saved.model.description}", total=len(split.test.users)) as advance:
        evaluation = evaluate(
            saved.model,
            split.test,
            ks=settings.ks,
            filter_viewed=settings.filter_viewed,
            item_ids=None if same_catalogue else saved.item_ids,
            on_batch=advance,
        )
    return measure_beyond_accuracy(evaluation, split.test, k=k_of(job.experiment.promote.metric), features=items)


def _summary(metrics: dict[str, dict[str, float]], metric: str, *, n_users: int) -> str:
    """Describe the result in one line, such as "ndcg@10 0.2445 on 735 users; item_knn 0.1065, popularity 0.0808"."""
    others = [f"{name} {values[metric]:.4f}" for name, values in metrics.items() if name != CHALLENGER]
    value = metrics[CHALLENGER][metric]
    return f"test {metric.replace('_at_', '@')} {value:.4f} on {n_users:,} users; {', '.join(others)}"


def _evaluated_folder(job: Job, champion: Version, tracker: Tracker, scratch: Path) -> Path:
    """Return the champion's model before its refit: a stage of this home, or the copy in MLflow."""
    trained = folder_of(job.home, "train", champion.tags[TRAIN_KEY])
    if is_done(trained):
        return trained / "model"
    return tracker.download(champion.run_id, EVALUATED_MODEL, scratch)
