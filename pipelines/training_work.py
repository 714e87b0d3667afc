"""What the training process does with its spec (see `training_process`)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from attnrec.dataset import LeakageError
from attnrec.experiment import Experiment
from attnrec.models import build_model
from attnrec.models.folder import SavedModel, save_model
from attnrec.storage import read_json, write_json
from attnrec.training import DivergenceError, Fitted, TrainConfig, train
from pipelines.settings import Home, prepare

KNOWN_ERRORS = (ValueError, LeakageError, DivergenceError, OSError)


def run(path: Path) -> int:
    """Train what the spec says; an error that a person can mend is left in error.txt beside it."""
    problem = path.with_name("error.txt")
    problem.unlink(missing_ok=True)
    try:
        _train(read_json(path))
    except KNOWN_ERRORS as error:
        problem.write_text(str(error))
        return 2
    return 0


def _train(spec: dict[str, Any]) -> None:
    from pipelines.ingest import load_split

    experiment, target = Experiment(**spec["experiment"]), Path(spec["target"])
    home = prepare(spec["home"])
    histories, split = load_split(experiment, Path(spec["histories"]))
    config = experiment.train
    torch.manual_seed(config.seed)
    model = build_model(experiment.model, histories.n_items)
    checkpoint = Path(spec["checkpoint"])
    started = time.monotonic()
    if spec["mode"] == "refit":
        config = config.model_copy(update={"epochs": max(1, spec["epochs"]), "max_minutes": None})
        fitted = train(model, histories, config=config, checkpoint=checkpoint)
    else:
        with _tracked(experiment, home, spec["run_id"]) as on_epoch:
            fitted = train(
                model,
                split.train,
                validation=split.validation,
                config=config,
                filter_viewed=experiment.evaluate.filter_viewed,
                checkpoint=checkpoint,
                on_epoch=on_epoch,
            )
    model.refresh()
    facts = {
        "epoch": fitted.best_epoch,
        "seed": config.seed,
        "data": histories.content_hash,
        "mode": spec["mode"],
    }
    (target / "model").mkdir()
    save_model(SavedModel(model, histories.item_ids, facts), target / "model")
    write_json(target / "epochs.json", fitted.epochs)
    write_json(target / "fitted.json", _summary(fitted, config, time.monotonic() - started))


@contextmanager
def _tracked(experiment: Experiment, home: Home, run_id: str) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Log each epoch in one call, and the machine's load meanwhile."""
    from attnrec.tracking import Tracker

    tracker = Tracker(home.tracking_uri, experiment=experiment.mlflow_experiment, artifacts=home.artifacts)
    with tracker.system_metrics(run_id):
        yield lambda epoch, report: tracker.log_metrics(run_id, report, step=epoch)


def _summary(fitted: Fitted, config: TrainConfig, wall_seconds: float) -> dict[str, Any]:
    import resource

    speeds = sorted(epoch["train/tokens_per_second"] for epoch in fitted.epochs)
    return {
        "best_epoch": fitted.best_epoch,
        "n_epochs": len(fitted.epochs),
        "seconds": fitted.seconds,
        "wall_seconds": wall_seconds,
        "stopped": fitted.stopped,
        "tokens_per_second": speeds[len(speeds) // 2] if speeds else 0.0,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device": config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu"),
        "threads": torch.get_num_threads(),
    }
