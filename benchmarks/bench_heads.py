"""What attention heads are worth: python benchmarks/bench_heads.py --home HOME --experiment ml-1m [--kind attnrec].

Takes the newest model of a kind that the flows trained in HOME on the experiment's data and split; trains nothing.
Importance and curve are measured on validation. The test part is asked once for each model of the price: the whole
one, and those without the least important quarter and half of the heads, chosen on validation.
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
"""Of the heads, removed for the price."""


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
    asked = {"metric": job.experiment.promote.metric, "filter_viewed": job.experiment.evaluate.filter_viewed}
    started = time.perf_counter()
    importance = head_importance(saved.model, split.validation, **asked)
    curve = pruning_curve(saved.model, split.validation, importance, **asked)
    whole, prices = price(saved.model, split, importance, job)
    seconds = time.perf_counter() - started
    said = f"{asked['metric']} of {saved.model.description} ({trained.name})"
    print(f"{said}, validation\n{importance.to_string(float_format='%.4f')}")
    print(f"\nremoved one after the other, validation\n{curve.to_string(index=False, float_format='%.4f')}")
    print(f"\nwithout the least important ones, test: {whole[asked['metric']]:.4f} before")
    for row in prices:
        low, high = row["interval"]
        print(f"{row['n_removed']} removed: {row['change']:+.4f} ({low:+.4f} to {high:+.4f}), p = {row['p_value']:.4f}")
    facts: dict[str, Any] = {"data": job.experiment.name, "model": saved.model.kind, "split": job.experiment.split.kind}
    facts |= {"readout": getattr(saved.model.config, "readout", "-"), "seed": saved.metadata["seed"], "metrics": whole}
    facts |= {"seconds": seconds, "tokens_per_second": None, "device": "cpu", "threads": options.threads}
    facts |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "stage": trained.name, **asked}
    tables = {name: table.to_dict("records") for name, table in (("importance", importance), ("curve", curve))}
    print(append("heads", facts | tables | {"price": prices}))


def split_of(job: "Job") -> "Split":
    """The experiment's split; its log and histories are found in the home, or made as the flows make them."""
    from attnrec_pipelines.stages.histories import gather_histories, load_split
    from attnrec_pipelines.stages.ingest import ingest_log

    source, settings = job.experiment.interactions, job.experiment.split
    logs = [ingest_log(job, source)]
    if settings.kind == "predefined" and settings.test_path is not None:
        logs.append(ingest_log(job, source.model_copy(update={"path": settings.test_path})))
    return load_split(job.experiment, gather_histories(job, *logs))[1]


def newest(job: "Job", split: "Split", *, kind: str) -> tuple[Path, "SavedModel"]:
    """The train stage made last whose model is of this kind and was trained on this data and split."""
    from attnrec.models.saved_model import load_model
    from attnrec.storage import MANIFEST, is_done, read_json

    folders = [folder for folder in job.home.stages.glob("train-*") if is_done(folder)]
    for folder in sorted(folders, key=lambda folder: (folder / MANIFEST).stat().st_mtime, reverse=True):
        if read_json(folder / "model" / "config.json")["model"]["kind"] != kind:
            continue
        saved, train = load_model(folder / "model"), split.train
        same_data = saved.metadata["data"] == train.content_hash and saved.item_ids.index.equals(train.item_ids.index)
        if same_data and answers_as_in_training(folder, saved, split, job):
            return folder, saved
    raise SystemExit(
        f"a model of kind {kind!r} trained on {job.experiment.name} is needed, got none of {len(folders)} in "
        f"{job.home.stages}; train one, give the --kind that was trained, or the --set that it was trained with"
    )


def answers_as_in_training(folder: Path, saved: "SavedModel", split: "Split", job: "Job") -> bool:
    """Whether validation says what it said in training; on another split, whose test part leaks, it would not."""
    from attnrec.storage import read_json
    from attnrec.training.validation import ValidationSet

    report = read_json(folder / "epochs.json")[read_json(folder / "manifest.json")["best_epoch"] - 1]
    said = {name.removeprefix("val/"): value for name, value in report.items() if name.startswith("val/")}
    config = job.experiment.train.model_copy(update={"seed": saved.metadata["seed"]})
    asked = ValidationSet.sample(split.validation, config, filter_viewed=job.experiment.evaluate.filter_viewed)
    now = asked.ask(saved.model, config.metric)
    # 1 %: a GPU rounds otherwise than this CPU
    return now.keys() == said.keys() and all(math.isclose(now[name], said[name], rel_tol=0.01) for name in now)


def price(model: "Model", split: "Split", importance: Any, job: "Job") -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Test metrics of the whole model, and how much those without some heads are better, user by user."""
    from attnrec.analysis.head_pruning import least_important_heads, prune_heads
    from attnrec.evaluation.comparison import compare
    from attnrec.evaluation.evaluator import evaluate

    settings = {"ks": job.experiment.evaluate.ks, "filter_viewed": job.experiment.evaluate.filter_viewed}
    whole, rows = evaluate(model, split.test, **settings, intervals=False), []
    for share in SHARES:
        heads = least_important_heads(importance, max(1, int(share * len(importance))))
        pruned = evaluate(prune_heads(model, heads), split.test, **settings, intervals=False)
        found = compare(pruned.per_user, whole.per_user, metric=job.experiment.promote.metric)
        row = {"share": share, "n_removed": len(heads), "heads": heads, "change": found.mean}
        row |= {"interval": found.interval, "p_value": found.p_value, "n_users": found.n_users}
        rows.append(row | {"n_better": found.n_better, "n_worse": found.n_worse, "metrics": pruned.summary})
    return whole.summary, rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="ml-1m", help="in pipelines/experiments, or a TOML file")
    parser.add_argument("--kind", default="attnrec", help="of the model")
    parser.add_argument("--home", help="where stages lie; default ATTNREC_HOME or ./data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the data and the split")
    return parser.parse_args()


if __name__ == "__main__":
    main()
