"""Accuracy of one model on one data set: python benchmarks/bench_accuracy.py --data ml-1m --model sasrec --seed 0.

Runs the stages of the train flow without Prefect and reuses stages that are cached.
"""

import argparse
import os
from typing import Any

from record import append

BASELINES = ("popularity", "item_knn")


def main() -> None:
    """Train, evaluate and append a line; with --baselines, append a line for each baseline of the same evaluation."""
    options = _options()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    from attnrec.storage import read_json
    from attnrec_pipelines.job import make_job
    from attnrec_pipelines.stages.evaluate import evaluate_model
    from attnrec_pipelines.stages.histories import gather_histories
    from attnrec_pipelines.stages.ingest import ingest_log
    from attnrec_pipelines.stages.train import train_model

    job = make_job(options.data, _overrides(options), options.home)
    histories = gather_histories(job, ingest_log(job, job.experiment.interactions))
    trained = train_model(job, histories)
    evaluated = evaluate_model(job, histories, trained)
    training, metrics = read_json(trained / "manifest.json"), read_json(evaluated / "metrics.json")
    shared = {"data": options.data, "split": job.experiment.split.kind, "seed": options.seed}
    speed = {key: training[key] for key in ("seconds", "peak_mb", "tokens_per_second", "device", "threads")}
    result = {"best_epoch": training["best_epoch"], "intervals": metrics["challenger"]["intervals"]}
    model = {"model": options.model, "readout": options.readout, "metrics": metrics["challenger"]["metrics"]}
    path = append("accuracy", shared | speed | result | model)
    for name in BASELINES if options.baselines else ():
        untrained: dict[str, Any] = {"seconds": 0, "peak_mb": 0, "tokens_per_second": 0}
        baseline = {"model": name, "readout": "-", "metrics": metrics[name]["metrics"], "best_epoch": 0}
        append("accuracy", shared | speed | untrained | baseline | {"intervals": metrics[name]["intervals"]})
    print(f"{model['metrics']['ndcg_at_10']:.4f} NDCG@10, {model['metrics']['hit_rate_at_10']:.4f} HR@10; {path}")


def _overrides(options: argparse.Namespace) -> tuple[str, ...]:
    """Return only settings that differ from the experiment's file, so that its cached stages are found."""
    overrides = [f"model.kind={options.model}", f"seed={options.seed}", f"train.threads={options.threads}"]
    if options.model == "sasrec":
        overrides.append(f"model.readout={options.readout}")
    return (*overrides, *options.set)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="ml-1m", help="a built-in experiment, or a TOML file")
    parser.add_argument("--model", default="sasrec")
    parser.add_argument("--readout", default="pooling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home", help="folder of the stages; default ATTNREC_HOME or ./data")
    parser.add_argument("--baselines", action="store_true", help="also append the baselines' lines")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
