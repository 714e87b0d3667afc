"""Accuracy of one model on one data set: python benchmarks/bench_accuracy.py --data ml-1m --model sasrec --seed 0.

It runs the stages of the train flow (without Prefect), so what the daily flow trained before is reused.
"""

import argparse
import os
from typing import Any

from record import append

BASELINES = ("popularity", "item_knn")


def main() -> None:
    """Train, evaluate, append a line; the baselines of the same evaluation get one each."""
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
    fitted, found = read_json(trained / "manifest.json"), read_json(evaluated / "metrics.json")
    shared = {"data": options.data, "split": job.experiment.split.kind, "seed": options.seed}
    speed = {key: fitted[key] for key in ("seconds", "peak_mb", "tokens_per_second", "device", "threads")}
    told = {"best_epoch": fitted["best_epoch"], "intervals": found["challenger"]["intervals"]}
    own = {"model": options.model, "readout": options.readout, "metrics": found["challenger"]["metrics"]}
    path = append("accuracy", shared | speed | told | own)
    for name in BASELINES if options.baselines else ():
        nothing: dict[str, Any] = {"seconds": 0, "peak_mb": 0, "tokens_per_second": 0}
        baseline = {"model": name, "readout": "-", "metrics": found[name]["metrics"], "best_epoch": 0}
        append("accuracy", shared | speed | nothing | baseline | {"intervals": found[name]["intervals"]})
    print(f"{own['metrics']['ndcg_at_10']:.4f} NDCG@10, {own['metrics']['hit_rate_at_10']:.4f} HR@10; {path}")


def _overrides(options: argparse.Namespace) -> tuple[str, ...]:
    """Only what differs from the experiment's own file, so that its stages are found again."""
    given = [f"model.kind={options.model}", f"seed={options.seed}", f"train.threads={options.threads}"]
    if options.model == "sasrec":
        given.append(f"model.readout={options.readout}")
    return (*given, *options.set)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="ml-1m", help="an experiment in pipelines/experiments, or a TOML file")
    parser.add_argument("--model", default="sasrec")
    parser.add_argument("--readout", default="pooling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home", help="where stages lie; default ATTNREC_HOME or ./data")
    parser.add_argument("--baselines", action="store_true", help="also append the baselines' lines")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
