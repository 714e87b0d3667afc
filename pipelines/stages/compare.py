"""Several models on one log, one split and equal time: nested runs in MLflow, one table, two figures."""

import logging
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow

from attnrec.evaluation.comparison import compare_with_best
from attnrec.evaluation.metrics import metric_name
from attnrec.experiment import Experiment, ExperimentError
from attnrec.models import MODELS, PRESETS, model_config
from attnrec.models.saved_model import load_model
from attnrec.storage import read_json, write_text
from attnrec.tracking.figures.comparison import comparison_figure
from attnrec.tracking.tracker import Tracker
from attnrec_pipelines.artifacts import show_table
from attnrec_pipelines.job import Job, PipelineError, make_job
from attnrec_pipelines.stage_cache import build, key_of
from attnrec_pipelines.stages.evaluate import evaluate_task
from attnrec_pipelines.stages.ingest import histories_task, ingest_task, items_table
from attnrec_pipelines.stages.register import record_task
from attnrec_pipelines.stages.train import train_task
from attnrec_pipelines.tracked_runs import tracker_of

SHARED = ("dim", "max_length", "dropout")
"""Settings of [model] that all models of a comparison take from the experiment, where it says them."""

PARENT = "mlflow.parentRunId"
"""The tag by which MLflow nests runs."""

FIGURES = {"seconds_to_best": "accuracy-and-time", "parameters": "accuracy-and-size"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """One model of a comparison: its experiment and its stages."""

    job: Job
    trained: Path
    evaluated: Path


def variants(experiment: str, over: str, overrides: tuple[str, ...] = (), home: str | None = None) -> dict[str, Job]:
    """The experiment once for every value of one setting.

    Args:
        experiment: a TOML file or a name.
        over: "model=sasrec,gru4rec" or a setting such as "model.attention=scaled_dot,cosine". Models by their kinds are
            as their presets have them, but for `SHARED`, and for settings that follow a kind: "ease max_length=5".
        overrides: for all of them, such as "train.max_minutes=15".
        home: folder for everything written.

    Raises:
        ExperimentError: for an experiment that cannot be run, no values, or a setting of something else than the model
            or its training.
    """
    key, _, values = over.partition("=")
    names = _names(values)
    if not names or len(set(names)) < len(names) or key.split(".")[0] not in ("model", "train"):
        raise ExperimentError(
            f"--over needs a setting of model or train and different values, such as model=sasrec,gru4rec or "
            f"model.attention=scaled_dot,cosine, got {over!r}"
        )
    if key != "model":
        return {name: make_job(experiment, (*overrides, f"{key}={name}"), home) for name in names}
    base = make_job(experiment, overrides, home)
    return {name: Job(_with_model(base.experiment, name), base.home) for name in names}


def _names(values: str) -> list[str]:
    """The values between commas that stand in no bracket."""
    names, depth = [""], 0
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            names.append("")
        else:
            names[-1] += letter
    return [name.strip() for name in names if name.strip()]


def _with_model(experiment: Experiment, name: str) -> Experiment:
    """The experiment with another model; its own kind stays as it is, but for settings in the name."""
    kind, *changes = name.split()
    own = experiment.model.model_dump() if kind == experiment.model.kind else _shared(experiment, kind)
    try:
        model = model_config(kind, own | dict(_setting(change) for change in changes))
    except ValueError as error:
        raise ExperimentError(f"--over model={name}: {error}") from None
    return experiment.model_copy(update={"model": model}) if changes or kind != experiment.model.kind else experiment


def _shared(experiment: Experiment, kind: str) -> dict[str, Any]:
    if kind not in MODELS or not MODELS[kind][0].learns:
        return {}
    known = experiment.model.model_fields_set & MODELS[kind][1].model_fields.keys()
    return {name: getattr(experiment.model, name) for name in SHARED if name in known}


def _setting(change: str) -> tuple[str, Any]:
    """ "max_length=5" -> name and value, which is TOML or else text."""
    name, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"settings of a model are NAME=VALUE, got {change!r}")
    try:
        return name, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return name, text


def compare_models(judged: dict[str, Judged], *, key: str) -> Path:
    """The table of a comparison and its figures: a folder with comparison.csv, comparison.md and pictures.

    Args:
        judged: name -> stages, of models evaluated on the same users.
        key: of the setting they differ in.
    """
    job = next(iter(judged.values())).job
    metric = job.experiment.promote.metric
    inputs = [each.evaluated.name for each in judged.values()]

    def make(target: Path) -> dict[str, Any]:
        table = comparison_table(judged, metric=metric)
        table.to_csv(target / "comparison.csv", index=False)
        write_text(target / "comparison.md", as_markdown(table, metric=metric))
        for cost, name in FIGURES.items():
            shown = table[table[cost] > 0]  # baselines have no parameters
            if len(shown):
                comparison_figure(shown, cost=cost, metric=metric).savefig(target / f"{name}.png", dpi=150)
        return {"over": key, "models": list(judged)}

    parameters = {"over": key, "models": list(judged), "metric": metric}
    return build(job.home, "compare", key_of("compare", inputs=inputs, parameters=parameters), make)


def comparison_table(judged: dict[str, Judged], *, metric: str) -> pd.DataFrame:
    """One row per model, the best first: accuracy with interval, paired test against the best, and what it cost."""
    per_user = {name: pd.read_parquet(each.evaluated / "challenger.parquet") for name, each in judged.items()}
    table = compare_with_best(per_user, metric=metric)
    curves = {name: read_json(each.trained / "epochs.json") for name, each in judged.items()}
    fewest = min((curve[-1]["train/tokens"] for curve in curves.values() if curve), default=0)
    asked = job_metric(judged)
    rows = [_costs(name, judged[name], curves[name], fewest=fewest, metric=asked) for name in table["model"]]
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(rows).drop(columns="model")], axis=1)


def job_metric(judged: dict[str, Judged]) -> str:
    """The validation metric that chose the epochs."""
    return f"val/{next(iter(judged.values())).job.experiment.train.metric}"


def _costs(name: str, judged: Judged, curve: list[dict[str, float]], *, fewest: float, metric: str) -> dict[str, Any]:
    fitted, model = read_json(judged.trained / "manifest.json"), load_model(judged.trained / "model").model
    preset = PRESETS.get(model.kind)
    test = read_json(judged.evaluated / "metrics.json")["challenger"]["metrics"]
    best = curve[fitted["best_epoch"] - 1]["train/seconds"] if curve else fitted["wall_seconds"]
    # the first epochs of every model that fit into as many tokens as the slowest one saw
    within = [report[metric] for report in curve if report["train/tokens"] <= fewest]
    return {
        "model": name,
        "group": preset.family if preset else ("graph attention" if model.learns else "baseline"),
        "objective": model.objective,
        "hit_rate": test[metric_name("hit_rate", 10)] if metric_name("hit_rate", 10) in test else float("nan"),
        "at_equal_tokens": max(within, default=float("nan")),
        "equal_tokens": fewest,
        "tokens": curve[-1]["train/tokens"] if curve else 0,
        "seconds": fitted["seconds"] if curve else fitted["wall_seconds"],
        "seconds_to_best": best,
        "tokens_per_second": fitted["tokens_per_second"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_mb": fitted["peak_mb"],
        "exact_reasons": model.exact_reasons,
        "stop_reason": fitted["stop_reason"],
        "device": f"{fitted['device']}, {fitted['threads']}",
    }


def read_comparison(folder: Path) -> pd.DataFrame:
    """The table that `compare_models` wrote."""
    return pd.read_csv(folder / "comparison.csv", dtype={"model": str})


def as_markdown(table: pd.DataFrame, *, metric: str) -> str:
    """The table for people."""
    shown = metric.replace("_at_", "@").replace("ndcg", "NDCG")
    fewest = table["equal_tokens"].max()
    tokens = f"{fewest / 1e6:.1f} M" if fewest > 1e6 else f"{fewest:,.0f}"
    head = [
        *("model", "kind", "trained on", f"test {shown} (95 %)", "HR@10", "to the best (p, Holm)"),
        *(f"val. {shown} at {tokens} tokens", "training s (best at)", "tokens/s", "parameters", "peak MB"),
        "exact reasons",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in table.to_dict("records"):
        best = row["difference"] == 0
        learned = row["tokens"] > 0
        cells = [
            *(row["model"], row["group"], row["objective"]),
            f"{row['mean']:.4f} ({row['low']:.4f}-{row['high']:.4f})",
            f"{row['hit_rate']:.4f}",
            "-" if best else f"{row['difference']:+.4f} ({row['p_value']:.3f})",
            f"{row['at_equal_tokens']:.4f}" if learned else "-",
            f"{row['seconds']:,.0f} ({row['seconds_to_best']:,.0f})" if learned else f"{row['seconds']:,.1f}",
            f"{row['tokens_per_second']:,.0f}" if learned else "-",
            *(f"{row['parameters']:,}", f"{row['peak_mb']:,.0f}", "yes" if row["exact_reasons"] else "no"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _open_parent(tracker: Tracker, job: Job, over: str) -> str:
    """The run that the models' runs are nested under; one per comparison, whoever asks."""
    key = key_of("over", inputs=[], parameters={"over": over, "experiment": job.experiment.name})
    found = tracker.find_run(key)
    return found or tracker.open_run(
        f"over {over.partition('=')[0]}",
        stage_key=key,
        params={"over": over, "data": job.experiment.name},
        settings=job.experiment.model_dump(mode="json"),
    )


@flow(name="compare", log_prints=True)
def compare_flow(experiment: str, over: str, overrides: tuple[str, ...] = (), home: str | None = None) -> Path:
    """Train and evaluate the experiment once for every value of a setting, with equal wall time.

    A model that fails is left out of the table, and the others are not lost for it.

    Returns:
        The folder of the comparison.
    """
    jobs = variants(experiment, over, overrides, home)
    first = next(iter(jobs.values()))
    if first.experiment.train.max_minutes is None:
        raise ExperimentError("models are compared at equal wall time: set train.max_minutes, or give --minutes")
    logs = ingest_task(first)
    histories = histories_task(first, logs)
    tracker = tracker_of(first)
    parent = _open_parent(tracker, first, over)
    judged: dict[str, Judged] = {}
    for name, job in jobs.items():
        try:
            trained = train_task(job, histories, items_table(logs))
        except PipelineError as error:
            logger.warning("%s is left out: %s", name, error)
            continue
        judged[name] = Judged(job, trained, evaluate_task(job, histories, trained, logs[0]))
        run_id = record_task(job, histories, trained, judged[name].evaluated)
        tracker.set_tags(run_id, {PARENT: parent})
    if not judged:
        tracker.close_run(parent, failed=True)
        raise PipelineError("no model of the comparison could be trained; see the warnings above")
    folder = compare_models(judged, key=over.partition("=")[0])
    _record(tracker, parent, folder)
    return folder


def _record(tracker: Tracker, parent: str, folder: Path) -> None:
    table = read_comparison(folder)
    tracker.log_table(parent, table, "comparison.json")
    tracker.log_folder(parent, folder, "comparison")
    tracker.set_tags(parent, {"mlflow.note.content": (folder / "comparison.md").read_text()})
    tracker.close_run(parent)
    show_table("comparison", table.astype(str).to_dict("records"), "Models compared")
