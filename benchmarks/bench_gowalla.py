"""One model on Gowalla, LightGCN's split: python benchmarks/bench_gowalla.py MODEL [--minutes 30] [--part choosing].

MODEL is one of attnrec (random_walk, gat, ease, item_knn, popularity) or a peer (lightgcn, gf_cf, cheby_cf). Part
"choosing": models are trained for at most --minutes, and validation chooses the epoch. Part "final": models are trained
for exactly --epochs and evaluated on the test file. All times are CPU time of all threads.

    bench_gowalla.py lightgcn --batch 8192 --set learning_rate=0.01
    bench_gowalla.py random_walk --part final --epochs 12 --batch 192 --set heads=4 --set train.learning_rate=0.003
"""

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from changes import parse_settings
from record import append

if TYPE_CHECKING:
    import pandas as pd
    from gowalla import Part

    from attnrec.models import Model
    from attnrec.training import TrainConfig

NOT_TRAINED = ("ease", "item_knn", "popularity")
TRAINED = ("random_walk", "gat")
FILTERS = ("gf_cf", "cheby_cf")
VALIDATION_USERS = 5000
MAX_EPOCHS = 1000


@dataclass
class Run:
    """Results of one model.

    Attributes:
        values: recall_at_20 and ndcg_at_20, one row per evaluated user.
        seconds: training, counting or computing singular vectors.
        scoring_seconds: scoring and ranking of all users.
        settings: settings of the model, and of training under `train`.
        tokens_per_second: target events per second of training.
        curve: seconds and Recall@20 at each validation.
        more: further keys of the result line.
    """

    values: "pd.DataFrame"
    seconds: float
    scoring_seconds: float
    settings: dict[str, Any]
    tokens_per_second: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Fit, evaluate, append a line."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch
    from gowalla import FOLDER, load_gowalla

    from attnrec.evaluation.evaluator import mean_intervals
    from attnrec.training.hardware import keep_freed_memory, peak_memory_mb

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    data = load_gowalla(options.folder or FOLDER)
    run = RUNS[options.model]({"choosing": data.choosing, "final": data.final}[options.part], options)
    facts = {
        "data": "gowalla",
        "model": options.model,
        "readout": "-",
        "split": options.part,
        "seed": options.seed,
        "metrics": {name: float(mean) for name, mean in run.values.mean().items()},
        "intervals": mean_intervals(run.values),
        "n_users": len(run.values),
        "seconds": round(run.seconds, 1),
        "scoring_seconds": round(run.scoring_seconds, 1),
        "peak_mb": round(peak_memory_mb(torch.device("cpu"))),
        "tokens_per_second": run.tokens_per_second and round(run.tokens_per_second),
        "device": "cpu",
        "threads": options.threads,
        "curve": [(round(seconds, 1), round(recall, 5)) for seconds, recall in run.curve],
        "settings": run.settings,
    }
    path = append("gowalla", facts | run.more)
    print(f"{options.model}: {facts['metrics']}, {run.seconds:,.0f} s, {facts['peak_mb']:,} MB -> {path.name}")


def run_not_trained(part: "Part", options: argparse.Namespace) -> Run:
    """Run a model of attnrec without gradient training."""
    model, settings = _build(part, options)
    started = time.process_time()
    model.observe(part.train)
    return Run(*_evaluate(model, part, time.process_time() - started), settings)


def run_trained(part: "Part", options: argparse.Namespace) -> Run:
    """Run a trained model of attnrec; `observe_seconds` is the time to build its graphs."""
    from attnrec.training import train

    model, settings = _build(part, options)
    config, validation = _train_config(options), part.holdout if options.part == "choosing" else None
    started = time.process_time()
    model.observe(part.train)
    more: dict[str, Any] = {"observe_seconds": round(time.process_time() - started, 1)}

    def print_epoch(epoch: int, report: dict[str, float]) -> None:
        print(epoch, {name: round(value, 4) for name, value in report.items()}, flush=True)

    result = train(model, part.train, validation=validation, config=config, on_epoch=print_epoch, progress_bar=False)
    more |= {"best_epoch": result.best_epoch, "epochs": len(result.epochs)}
    evaluated, name = _evaluate(model, part, result.seconds), f"val/{config.metric}"
    return Run(
        *evaluated,
        settings | {"train": config.model_dump(mode="json")},
        result.epochs[-1]["train/tokens"] / result.seconds,
        [(report["train/seconds"], report[name]) for report in result.epochs if name in report],
        more,
    )


def run_lightgcn(part: "Part", options: argparse.Namespace) -> Run:
    """Run LightGCN; its time excludes the final propagation and validation."""
    from peers.lightgcn import LightGCNConfig, train

    from attnrec.training.validation import ValidationSet

    settings, _ = parse_settings(options.set)
    limits = {"seed": options.seed, "epochs": options.epochs or MAX_EPOCHS}
    limits |= {"batch_size": options.batch} if options.batch else {}
    validation = None
    if options.part == "choosing":
        limits["max_minutes"] = options.minutes
        validation = ValidationSet.sample(part.holdout, _train_config(options), filter_viewed=True).holdout
    config = LightGCNConfig.from_dict(limits | settings)
    trained = train(part.train, config, validation=validation, on_check=lambda *check: print(*check, flush=True))
    more = {"best_epoch": trained.vectors.epoch, "epochs": trained.epochs}
    more |= {"step_milliseconds": round(trained.step_milliseconds)}
    evaluated = _evaluate_scores(trained.vectors.score, part, trained.seconds)
    return Run(*evaluated, config.model_dump(mode="json"), trained.pairs_per_second, list(trained.curve), more)


def run_filter(part: "Part", options: argparse.Namespace) -> Run:
    """Run a graph filter."""
    from peers.graph_filters import GFCF, ChebyCF, ChebyCFConfig, GFCFConfig

    kind, settings = {"gf_cf": (GFCF, GFCFConfig), "cheby_cf": (ChebyCF, ChebyCFConfig)}[options.model]
    config = settings.from_dict({"seed": options.seed} | parse_settings(options.set)[0])
    started = time.process_time()
    fitted = kind(part.train, config)
    return Run(*_evaluate_scores(fitted.score, part, time.process_time() - started), config.model_dump(mode="json"))


RUNS = (
    dict.fromkeys(TRAINED, run_trained)
    | dict.fromkeys(NOT_TRAINED, run_not_trained)
    | {"lightgcn": run_lightgcn}
    | dict.fromkeys(FILTERS, run_filter)
)


def _build(part: "Part", options: argparse.Namespace) -> tuple["Model", dict[str, Any]]:
    import torch

    from attnrec.models import build_model, model_config

    config = model_config(options.model, parse_settings(options.set)[0])
    torch.manual_seed(options.seed)
    return build_model(config, part.train.n_items), config.model_dump(mode="json")


def _evaluate(model: "Model", part: "Part", seconds: float) -> tuple["pd.DataFrame", float, float]:
    """Return the first three fields of a `Run`."""
    from gowalla import METRICS, K

    from attnrec.evaluation.evaluator import evaluate

    started = time.process_time()
    values = evaluate(model, part.holdout, ks=(K,), intervals=False).per_user[list(METRICS)]
    return values, seconds, time.process_time() - started


def _evaluate_scores(score: Any, part: "Part", seconds: float) -> tuple["pd.DataFrame", float, float]:
    from gowalla import ranked_values

    started = time.process_time()
    return ranked_values(score, part.train, part.holdout), seconds, time.process_time() - started


def _train_config(options: argparse.Namespace) -> "TrainConfig":
    """Return the training settings of attnrec models; LightGCN uses the same validation users."""
    from attnrec.training import TrainConfig

    fixed = {"device": "cpu", "clock": "cpu_time", "threads": options.threads, "seed": options.seed}
    chosen: dict[str, Any] = {"metric": "recall_at_20", "validation_users": VALIDATION_USERS}
    chosen |= {"epochs": options.epochs or MAX_EPOCHS} | ({"batch_size": options.batch} if options.batch else {})
    limit = {"max_minutes": options.minutes} if options.part == "choosing" else {}
    return TrainConfig.from_dict(chosen | parse_settings(options.set)[1] | fixed | limit)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=RUNS)
    parser.add_argument("--part", choices=("choosing", "final"), default="choosing")
    parser.add_argument("--minutes", type=float, default=30.0, help="training time on the choosing part")
    parser.add_argument("--epochs", type=int, help="exact number on the final part, maximum on the other")
    parser.add_argument("--batch", type=int, help="pairs per step (lightgcn: 2,048) or windows per step (attnrec)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="folder of train.parquet and test.parquet; default ../shared/data/gowalla"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the model, or train.KEY"
    )
    options = parser.parse_args()
    if options.part == "final" and options.model in (*TRAINED, "lightgcn") and options.epochs is None:
        parser.error("the final part has no validation: give --epochs, the best epoch of the choosing part")
    return options


if __name__ == "__main__":
    main()
