"""Importance of attention heads: python benchmarks/bench_heads.py --home HOME --experiment ml-1m [--kind attnrec].

Uses the newest model of a kind that the flows trained in HOME on the experiment's data and split; trains nothing.
Importance and the pruning curve are measured on validation. The test part is used once for each of three models: the
full model, and those without the least important quarter and half of the heads, chosen on validation.
"""

import argparse
import math
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from record import append

if TYPE_CHECKING:
    from attnrec.dataset import Split
    from attnrec.models import Model
    from attnrec.models.saved_model import SavedModel
    from attnrec_pipelines.job import Job

SHARES = (0.25, 0.5)
"""Shares of the heads that are removed for the test."""


def main() -> None:
    """Measure, append a line, print the tables."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    from attnrec.analysis.head_pruning import head_importance, pruning_curve
    from attnrec_pipelines.job import make_job

    torch.set_num_threads(options.threads)
    job = make_job(options.experiment, tuple(options.set), options.home)
    split = split_of(job)
    trained, saved = newest(job, split, kind=options.kind)
    settings = {"metric": job.experiment.promote.metric, "filter_viewed": job.experiment.evaluate.filter_viewed}
    started = time.perf_counter()
    importance = head_importance(saved.model, split.validation, **settings)
    curve = pruning_curve(saved.model, split.validation, importance, **settings)
    full, pruned = evaluate_pruned(saved.model, split, importance, job)
    seconds = time.perf_counter() - started
    title = f"{settings['metric']} of {saved.model.description} ({trained.name})"
    print(f"{title}, validation\n{importance.to_string(float_format='%.4f')}")
    print(f"\nheads removed cumulatively, validation\n{curve.to_string(index=False, float_format='%.4f')}")
    print(f"\nwithout the least important heads, test: {full[settings['metric']]:.4f} with all heads")
    for row in pruned:
        low, high = row["interval"]
        print(f"{row['n_removed']} removed: {row['change']:+.4f} ({low:+.4f} to {high:+.4f}), p = {row['p_value']:.4f}")
    facts: dict[str, Any] = {"data": job.experiment.name, "model": saved.model.kind, "split": job.experiment.split.kind}
    facts |= {"readout": getattr(saved.model.config, "readout", "-"), "seed": saved.metadata["seed"], "metrics": full}
    facts |= {"seconds": seconds, "tokens_per_second": None, "device": "cpu", "threads": options.threads}
    facts |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "stage": trained.name, **settings}
    tables = {name: table.to_dict("records") for name, table in (("importance", importance), ("curve", curve))}
    print(append("heads", facts | tables | {"price": pruned}))


def split_of(job: "Job") -> "Split":
    """Return the experiment's split; log and histories come from cached stages or are built as in the flows."""
    from attnrec_pipelines.stages.histories import gather_histories, load_split
    from attnrec_pipelines.stages.ingest import ingest_log

    source, settings = job.experiment.interactions, job.experiment.split
    logs = [ingest_log(job, source)]
    if settings.kind == "predefined" and settings.test_path is not None:
        logs.append(ingest_log(job, source.model_copy(update={"path": settings.test_path})))
    return load_split(job.experiment, gather_histories(job, *logs))[1]


def newest(job: "Job", split: "Split", *, kind: str) -> tuple[Path, "SavedModel"]:
    """Return the newest train stage whose model has this kind and was trained on this data and split."""
    from attnrec.models.saved_model import load_model
    from attnrec.storage import MANIFEST, is_done, read_json

    folders = [folder for folder in job.home.stages.glob("train-*") if is_done(folder)]
    for folder in sorted(folders, key=lambda folder: (folder / MANIFEST).stat().st_mtime, reverse=True):
        if read_json(folder / "model" / "config.json")["model"]["kind"] != kind:
            continue
        saved, train = load_model(folder / "model"), split.train
        same_data = saved.metadata["data"] == train.content_hash and saved.item_ids.index.equals(train.item_ids.index)
        if same_data and validates_as_in_training(folder, saved, split, job):
            return folder, saved
    raise SystemExit(
        f"a model of kind {kind!r} trained on {job.experiment.name} is needed, got none of {len(folders)} in "
        f"{job.home.stages}; train one, give the --kind that was trained, or the --set that it was trained with"
    )


def validates_as_in_training(folder: Path, saved: "SavedModel", split: "Split", job: "Job") -> bool:
    """Return whether validation reproduces the value logged in training; on another split it does not."""
    from attnrec.storage import read_json
    from attnrec.training.validation import ValidationSet

    report = read_json(folder / "epochs.json")[read_json(folder / "manifest.json")["best_epoch"] - 1]
    logged = {name.removeprefix("val/"): value for name, value in report.items() if name.startswith("val/")}
    config = job.experiment.train.model_copy(update={"seed": saved.metadata["seed"]})
    validation = ValidationSet.sample(split.validation, config, filter_viewed=job.experiment.evaluate.filter_viewed)
    values = validation.evaluate(saved.model, config.metric)
    # 1 %: rounding differs between GPU and CPU
    return values.keys() == logged.keys() and all(
        math.isclose(values[name], logged[name], rel_tol=0.01) for name in values
    )


def evaluate_pruned(
    model: "Model", split: "Split", importance: Any, job: "Job"
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the test metrics of the full model, and a paired comparison of each pruned model with it."""
    from attnrec.analysis.head_pruning import least_important_heads, prune_heads
    from attnrec.evaluation.comparison import compare
    from attnrec.evaluation.evaluator import evaluate

    settings = {"ks": job.experiment.evaluate.ks, "filter_viewed": job.experiment.evaluate.filter_viewed}
    full, rows = evaluate(model, split.test, **settings, intervals=False), []
    for share in SHARES:
        heads = least_important_heads(importance, max(1, int(share * len(importance))))
        pruned = evaluate(prune_heads(model, heads), split.test, **settings, intervals=False)
        comparison = compare(pruned.per_user, full.per_user, metric=job.experiment.promote.metric)
        row = {"share": share, "n_removed": len(heads), "heads": heads, "change": comparison.mean}
        row |= {"interval": comparison.interval, "p_value": comparison.p_value, "n_users": comparison.n_users}
        rows.append(row | {"n_better": comparison.n_better, "n_worse": comparison.n_worse, "metrics": pruned.summary})
    return full.summary, rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="ml-1m", help="a built-in experiment, or a TOML file")
    parser.add_argument("--kind", default="attnrec", help="kind of the model")
    parser.add_argument("--home", help="folder of the stages; default ATTNREC_HOME or ./data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the data or the split"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
