"""The work of the training process (see `training_process`)."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from attnrec.dataset import Features, LeakageError, audit_split, load_features
from attnrec.experiment import Experiment
from attnrec.models import build_model, observed_graphs
from attnrec.models.saved_model import SavedModel, load_with_warm_start, save_model
from attnrec.precision import describe_precision
from attnrec.storage import read_json, write_json, write_text
from attnrec.training import DivergenceError, TrainConfig, TrainingResult, WarmStart, train
from attnrec.training.hardware import keep_freed_memory, peak_memory_mb
from attnrec.training.loop import OnEpoch
from attnrec_pipelines.settings import Home, prepare

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, LeakageError, DivergenceError, MemoryError, OSError)


def run(path: Path) -> int:
    """Train as specified; a user-fixable error is written to error.txt beside the spec.

    With several processes, only the first one reports and writes the model, but each of them may write the error,
    because it may be the only one that fails.
    """
    keep_freed_memory()
    try:
        _train(read_json(path))
    except USER_ERRORS as error:
        write_text(path.with_name("error.txt"), str(error) or type(error).__name__)
        return 2
    return 0


def _train(spec: dict[str, Any]) -> None:
    from attnrec_pipelines.stages.histories import load_split

    experiment, target = Experiment(**spec["experiment"]), Path(spec["target"])
    home = prepare(spec["home"])
    histories, split = load_split(experiment, Path(spec["histories"]))
    config = experiment.train
    torch.manual_seed(config.seed)
    features = None if spec["items"] is None else load_features(Path(spec["items"]), histories.item_ids)
    init = _warm_start(spec["init"], features)
    fit_features = None if init is None else init.features
    model = build_model(experiment.model, histories.n_items, features, fit_features=fit_features)
    if spec["mode"] == "train" and (graphs := observed_graphs(model, split.train)):
        audit_split(split, **graphs)  # before training; a refit has no validation and test events
    common: dict[str, Any] = {"checkpoint": Path(spec["checkpoint"]), "init": init}
    started = time.monotonic()
    if spec["mode"] == "refit":
        config = config.model_copy(update={"epochs": max(1, spec["epochs"]), "max_minutes": None})
    if _is_main():
        part = "again on all events" if spec["mode"] == "refit" else "on the training part"
        logger.info("training %s %s, at most %d epochs", model.description, part, config.epochs)
    if spec["mode"] == "refit":
        result = train(model, histories, config=config, **common)
    else:
        with _epochs_in_mlflow(experiment, home, spec["run_id"]) as on_epoch:
            result = train(
                model,
                split.train,
                validation=split.validation,
                config=config,
                filter_viewed=experiment.evaluate.filter_viewed,
                on_epoch=on_epoch,
                **common,
            )
    if not _is_main():
        return
    model.refresh()
    metadata = {"epoch": result.best_epoch, "seed": config.seed, "data": histories.content_hash, "mode": spec["mode"]}
    (target / "model").mkdir()
    save_model(SavedModel(model, histories.item_ids, metadata, result.moments or {}, features), target / "model")
    write_json(target / "epochs.json", result.epochs)
    write_json(target / "training.json", _facts(result, config, time.monotonic() - started))


def _warm_start(folder: str | None, features: Features | None) -> WarmStart | None:
    """Load the initial model, with the features of today's items."""
    if folder is None:
        return None
    saved = load_with_warm_start(Path(folder))
    return WarmStart(saved.model, saved.item_ids, saved.moments, saved.features, features)


@contextmanager
def _epochs_in_mlflow(experiment: Experiment, home: Home, run_id: str) -> Iterator[OnEpoch | None]:
    """Log each epoch to MLflow in one call, and, if configured, the system metrics; only the first process does."""
    if not _is_main():
        yield None
        return
    from attnrec.tracking.run_content import epoch_metrics
    from attnrec.tracking.tracker import Tracker

    tracker = Tracker(home.tracking_uri, experiment=experiment.mlflow_experiment, artifacts=home.artifacts)

    def on_epoch(epoch: int, report: dict[str, float]) -> None:
        tracker.log_metrics(run_id, epoch_metrics(report, validation=experiment.train.metric), step=epoch)

    if not experiment.tracking.system_metrics:
        yield on_epoch
        return
    with tracker.system_metrics(run_id):
        yield on_epoch


def _is_main() -> bool:
    """Tell whether this is the first of the workers."""
    return os.environ.get("RANK", "0") == "0"


def _facts(result: TrainingResult, config: TrainConfig, wall_seconds: float) -> dict[str, Any]:
    def of_epochs(name: str) -> list[float]:
        return [epoch[name] for epoch in result.epochs] or [0.0]

    precision = describe_precision(config.precision, torch.device(result.device))
    return {
        "precision": precision,
        "best_epoch": result.best_epoch,
        "n_epochs": len(result.epochs),
        "seconds": result.seconds,
        "wall_seconds": wall_seconds,
        "stop_reason": result.stop_reason,
        "tokens_per_second": median(of_epochs("train/tokens_per_second")),
        "padding": median(of_epochs("train/padding")),
        "peak_mb": max(of_epochs("train/peak_mb")) or peak_memory_mb(torch.device(result.device)),
        "device": result.device,
        "threads": torch.get_num_threads(),
        "processes": config.processes,
    }
