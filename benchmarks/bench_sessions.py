"""One model on Diginetica: python benchmarks/bench_sessions.py KIND [--part final --epochs 8] [--set KEY=VALUE].

Part "choosing": validation on the last tenth of the sessions chooses the epoch. Part "final": the model is trained on
all sessions for exactly --epochs and evaluated on the test prefixes. Seconds are CPU time.
"""

import argparse
import os
import time

from changes import parse_settings
from record import append

METRICS = ("recall_at_20", "mrr_at_20")
MAX_EPOCHS = 1000


def main() -> None:
    """Train, evaluate, append a line."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch
    from diginetica import load_diginetica

    from attnrec.evaluation.evaluator import evaluate, mean_intervals
    from attnrec.models import build_model, model_config
    from attnrec.training import TrainConfig, train
    from attnrec.training.hardware import keep_freed_memory, peak_memory_mb

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    data, (settings, training) = load_diginetica(), parse_settings(options.set)
    train_part, holdout = data.final if options.part == "final" else data.choosing
    config = model_config(options.model, {"max_length": 50} | settings)
    torch.manual_seed(options.seed)
    model = build_model(config, train_part.n_items)
    limit = {} if options.part == "final" else {"max_minutes": options.minutes}
    fixed = {"device": "cpu", "clock": "cpu_time", "threads": options.threads, "seed": options.seed}
    defaults = {"metric": "recall_at_20", "epochs": options.epochs or MAX_EPOCHS}
    train_config = TrainConfig.from_dict(defaults | training | fixed | limit)

    def print_epoch(epoch: int, report: dict[str, float]) -> None:
        print(epoch, {name: round(value, 4) for name, value in report.items()}, flush=True)

    started = time.process_time()
    model.observe(train_part)
    observe_seconds = time.process_time() - started
    result = train(
        model,
        train_part,
        validation=None if options.part == "final" else holdout,
        config=train_config,
        filter_viewed=False,
        on_epoch=print_epoch,
        progress_bar=False,
    )
    started = time.process_time()
    values = evaluate(model, holdout, ks=(20,), filter_viewed=False, intervals=False).per_user[list(METRICS)]
    facts = {
        "data": "diginetica",
        "model": options.model,
        "readout": getattr(config, "readout", "-"),
        "split": options.part,
        "seed": options.seed,
        "metrics": {name: float(mean) for name, mean in values.mean().items()},
        "intervals": mean_intervals(values),
        "n_questions": len(values),
        "seconds": round(result.seconds, 1),
        "observe_seconds": round(observe_seconds, 1),
        "scoring_seconds": round(time.process_time() - started, 1),
        "peak_mb": round(peak_memory_mb(torch.device("cpu"))),
        "tokens_per_second": round(result.epochs[-1]["train/tokens"] / result.seconds),
        "device": "cpu",
        "threads": options.threads,
        "best_epoch": result.best_epoch,
        "curve": [[round(e["train/seconds"], 1), *(e.get(f"val/{name}") for name in METRICS)] for e in result.epochs],
        "settings": config.model_dump(mode="json") | {"train": train_config.model_dump(mode="json")},
    }
    path = append("sessions", facts)
    print(f"{options.model}: {facts['metrics']}, {result.seconds:,.0f} s, {facts['peak_mb']:,} MB -> {path.name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a kind of `attnrec models`")
    parser.add_argument("--part", choices=("choosing", "final"), default="choosing")
    parser.add_argument("--minutes", type=float, default=30.0, help="training time on the choosing part")
    parser.add_argument("--epochs", type=int, help="exact number on the final part, maximum on the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the model, or train.KEY"
    )
    options = parser.parse_args()
    if options.part == "final" and options.epochs is None:
        parser.error("the final part has no validation: give --epochs, the best epoch of the choosing part")
    return options


if __name__ == "__main__":
    main()
