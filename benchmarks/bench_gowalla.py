"""One model on Gowalla, LightGCN's split: python benchmarks/bench_gowalla.py MODEL [--minutes 30] [--part choosing].

MODEL is ours (random_walk, gat, ease, item_knn, popularity) or a peer (lightgcn, gf_cf, cheby_cf). On the part
"choosing" a model that learns may train for so many minutes, and validation picks the epoch; on "final", where the
questions are the test's, it trains for exactly --epochs. All times are the processor's, of all threads.

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

COUNTED = ("ease", "item_knn", "popularity")
LEARNED = ("random_walk", "gat")
FILTERS = ("gf_cf", "cheby_cf")
VALIDATION_USERS = 5000
MOST_EPOCHS = 1000


@dataclass
class Run:
    """One model, fitted and asked.

    Attributes:
        values: recall_at_20 and ndcg_at_20, one row per user asked.
        seconds: in training, counting or finding singular vectors.
        scoring_seconds: for all users asked, with ranking.
        settings: of the model, and under `train` those of training.
        tokens_per_second: events asked for in training.
        curve: seconds and Recall@20 at each validation.
        more: other keys of the line.
    """

    values: "pd.DataFrame"
    seconds: float
    scoring_seconds: float
    settings: dict[str, Any]
    tokens_per_second: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Fit, ask, append a line."""
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


def run_counted(part: "Part", options: argparse.Namespace) -> Run:
    """A model of ours that only counts."""
    model, settings = _build(part, options)
    started = time.process_time()
    model.observe(part.train)
    return Run(*_asked(model, part, time.process_time() - started), settings)


def run_learned(part: "Part", options: argparse.Namespace) -> Run:
    """A model of ours that is trained; making its graphs is a time of its own, `observe_seconds`."""
    from attnrec.training import train

    model, settings = _build(part, options)
    config, validation = _train_config(options), part.holdout if options.part == "choosing" else None
    started = time.process_time()
    model.observe(part.train)
    more: dict[str, Any] = {"observe_seconds": round(time.process_time() - started, 1)}

    def tell(epoch: int, report: dict[str, float]) -> None:
        print(epoch, {name: round(value, 4) for name, value in report.items()}, flush=True)

    result = train(model, part.train, validation=validation, config=config, on_epoch=tell, progress_bar=False)
    more |= {"best_epoch": result.best_epoch, "epochs": len(result.epochs)}
    asked, name = _asked(model, part, result.seconds), f"val/{config.metric}"
    return Run(
        *asked,
        settings | {"train": config.model_dump(mode="json")},
        result.epochs[-1]["train/tokens"] / result.seconds,
        [(report["train/seconds"], report[name]) for report in result.epochs if name in report],
        more,
    )


def run_lightgcn(part: "Part", options: argparse.Namespace) -> Run:
    """LightGCN; its vectors are made, and it validates, with the clock standing still."""
    from peers.lightgcn import LightGCNConfig, train

    from attnrec.training.validation import ValidationSet

    given, _ = parse_settings(options.set)
    limits = {"seed": options.seed, "epochs": options.epochs or MOST_EPOCHS}
    limits |= {"batch_size": options.batch} if options.batch else {}
    validation = None
    if options.part == "choosing":
        limits["max_minutes"] = options.minutes
        validation = ValidationSet.sample(part.holdout, _train_config(options), filter_viewed=True).holdout
    config = LightGCNConfig.from_dict(limits | given)
    trained = train(part.train, config, validation=validation, on_check=lambda *check: print(*check, flush=True))
    more = {"best_epoch": trained.vectors.epoch, "epochs": trained.epochs}
    more |= {"step_milliseconds": round(trained.step_milliseconds)}
    asked = _ranked(trained.vectors.score, part, trained.seconds)
    return Run(*asked, config.model_dump(mode="json"), trained.pairs_per_second, list(trained.curve), more)


def run_filter(part: "Part", options: argparse.Namespace) -> Run:
    """A graph filter."""
    from peers.graph_filters import GFCF, ChebyCF, ChebyCFConfig, GFCFConfig

    kind, settings = {"gf_cf": (GFCF, GFCFConfig), "cheby_cf": (ChebyCF, ChebyCFConfig)}[options.model]
    config = settings.from_dict({"seed": options.seed} | parse_settings(options.set)[0])
    started = time.process_time()
    fitted = kind(part.train, config)
    return Run(*_ranked(fitted.score, part, time.process_time() - started), config.model_dump(mode="json"))


RUNS = (
    dict.fromkeys(LEARNED, run_learned)
    | dict.fromkeys(COUNTED, run_counted)
    | {"lightgcn": run_lightgcn}
    | dict.fromkeys(FILTERS, run_filter)
)


def _build(part: "Part", options: argparse.Namespace) -> tuple["Model", dict[str, Any]]:
    import torch

    from attnrec.models import build_model, model_config

    config = model_config(options.model, parse_settings(options.set)[0])
    torch.manual_seed(options.seed)
    return build_model(config, part.train.n_items), config.model_dump(mode="json")


def _asked(model: "Model", part: "Part", seconds: float) -> tuple["pd.DataFrame", float, float]:
    """The first fields of a `Run`."""
    from gowalla import METRICS, K

    from attnrec.evaluation.evaluator import evaluate

    started = time.process_time()
    values = evaluate(model, part.holdout, ks=(K,), intervals=False).per_user[list(METRICS)]
    return values, seconds, time.process_time() - started


def _ranked(score: Any, part: "Part", seconds: float) -> tuple["pd.DataFrame", float, float]:
    from gowalla import ranked_values

    started = time.process_time()
    return ranked_values(score, part.train, part.holdout), seconds, time.process_time() - started


def _train_config(options: argparse.Namespace) -> "TrainConfig":
    """Of ours; the same questions validate LightGCN."""
    from attnrec.training import TrainConfig

    fixed = {"device": "cpu", "clock": "cpu_time", "threads": options.threads, "seed": options.seed}
    chosen: dict[str, Any] = {"metric": "recall_at_20", "validation_users": VALIDATION_USERS}
    chosen |= {"epochs": options.epochs or MOST_EPOCHS} | ({"batch_size": options.batch} if options.batch else {})
    limit = {"max_minutes": options.minutes} if options.part == "choosing" else {}
    return TrainConfig.from_dict(chosen | parse_settings(options.set)[1] | fixed | limit)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=RUNS)
    parser.add_argument("--part", choices=("choosing", "final"), default="choosing")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, on the choosing part")
    parser.add_argument("--epochs", type=int, help="exactly so many on the final part, at most on the other")
    parser.add_argument("--batch", type=int, help="pairs of a step (lightgcn: 2,048), or windows (ours)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of train.parquet and test.parquet; default ../shared/data/gowalla")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="train.KEY: of training")
    options = parser.parse_args()
    if options.part == "final" and options.model in (*LEARNED, "lightgcn") and options.epochs is None:
        parser.error("the final part has no validation: give the --epochs that the choosing part chose")
    return options


if __name__ == "__main__":
    main()
