"""Stage: the comparison of several models on one log and one split: a table, its markdown, and two figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attnrec.evaluation.comparison import compare_with_best
from attnrec.evaluation.metrics import metric_name
from attnrec.models import PRESETS
from attnrec.models.saved_model import load_model
from attnrec.storage import read_json, write_text
from attnrec.tracking.figures.comparison import comparison_figure
from attnrec_pipelines.job import Job
from attnrec_pipelines.stage_cache import SUMMARY, build, key_of

FIGURES = {"seconds_to_best": "accuracy-and-time", "parameters": "accuracy-and-size"}


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison: its job and its stages."""

    job: Job
    trained: Path
    evaluated: Path


def compare_models(models: dict[str, ComparedModel], *, key: str) -> Path:
    """Compare models that were evaluated on the same users.

    Args:
        models: by name.
        key: key of the setting in which they differ.

    Returns:
        A folder with comparison.csv, comparison.md and figures.
    """
    job = next(iter(models.values())).job
    metric = job.experiment.promote.metric
    inputs = [model.evaluated.name for model in models.values()]

    def make(target: Path) -> dict[str, Any]:
        table = comparison_table(models, metric=metric)
        table.to_csv(target / "comparison.csv", index=False)
        write_text(target / "comparison.md", as_markdown(table, metric=metric))
        for cost, name in FIGURES.items():
            shown = table[table[cost] > 0]  # baselines have no parameters
            if len(shown):
                comparison_figure(shown, cost=cost, metric=metric).savefig(target / f"{name}.png", dpi=150)
        return {"over": key, "models": list(models), SUMMARY: f"best of {len(models)}: {table['model'].iloc[0]}"}

    parameters = {"over": key, "models": list(models), "metric": metric}
    return build(job.home, "compare", key_of("compare", inputs=inputs, parameters=parameters), make)


def comparison_table(models: dict[str, ComparedModel], *, metric: str) -> pd.DataFrame:
    """Return one row per model, the best first: accuracy with interval, paired test against the best, and costs."""
    per_user = {name: pd.read_parquet(model.evaluated / "challenger.parquet") for name, model in models.items()}
    table = compare_with_best(per_user, metric=metric)
    curves = {name: read_json(model.trained / "epochs.json") for name, model in models.items()}
    equal_tokens = min((curve[-1]["train/tokens"] for curve in curves.values() if curve), default=0)
    rows = [_costs(name, models[name], curves[name], equal_tokens=equal_tokens) for name in table["model"]]
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(rows).drop(columns="model")], axis=1)


def _costs(name: str, compared: ComparedModel, curve: list[dict[str, float]], *, equal_tokens: float) -> dict[str, Any]:
    training = read_json(compared.trained / "manifest.json")
    model = load_model(compared.trained / "model").model
    validation = f"val/{compared.job.experiment.train.metric}"
    preset = PRESETS.get(model.kind)
    test = read_json(compared.evaluated / "metrics.json")["challenger"]["metrics"]
    best = curve[training["best_epoch"] - 1]["train/seconds"] if curve else training["wall_seconds"]
    # the first epochs of every model, up to the number of tokens that the slowest model saw
    at_equal_tokens = [report[validation] for report in curve if report["train/tokens"] <= equal_tokens]
    return {
        "model": name,
        "group": preset.family if preset else ("graph attention" if model.trainable else "baseline"),
        "objective": model.objective,
        "hit_rate": test.get(metric_name("hit_rate", 10), float("nan")),
        "at_equal_tokens": max(at_equal_tokens, default=float("nan")),
        "equal_tokens": equal_tokens,
        "tokens": curve[-1]["train/tokens"] if curve else 0,
        "seconds": training["seconds"] if curve else training["wall_seconds"],
        "seconds_to_best": best,
        "tokens_per_second": training["tokens_per_second"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_mb": training["peak_mb"],
        "exact_reasons": model.exact_reasons,
        "stop_reason": training["stop_reason"],
        "device": f"{training['device']}, {training['threads']}",
    }


def read_comparison(folder: Path) -> pd.DataFrame:
    """Read the table of `compare_models`."""
    return pd.read_csv(folder / "comparison.csv", dtype={"model": str})


def as_markdown(table: pd.DataFrame, *, metric: str) -> str:
    """Format the table as markdown."""
    shown = metric.replace("_at_", "@").upper()
    equal_tokens = table["equal_tokens"].max()
    tokens = f"{equal_tokens / 1e6:.1f} M" if equal_tokens > 1e6 else f"{equal_tokens:,.0f}"
    head = [
        *("model", "family", "objective", f"test {shown} (95 % interval)", "HR@10", "difference to the best (p, Holm)"),
        *(f"val {shown} at {tokens} tokens", "training s (best epoch at)", "tokens/s", "parameters", "peak MB"),
        "exact reasons",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in table.to_dict("records"):
        is_best = row["difference"] == 0
        is_trained = row["tokens"] > 0
        cells = [
            *(row["model"], row["group"], row["objective"]),
            f"{row['mean']:.4f} ({row['low']:.4f}-{row['high']:.4f})",
            f"{row['hit_rate']:.4f}",
            "-" if is_best else f"{row['difference']:+.4f} ({row['p_value']:.3f})",
            f"{row['at_equal_tokens']:.4f}" if is_trained else "-",
            f"{row['seconds']:,.0f} ({row['seconds_to_best']:,.0f})" if is_trained else f"{row['seconds']:,.1f}",
            f"{row['tokens_per_second']:,.0f}" if is_trained else "-",
            *(f"{row['parameters']:,}", f"{row['peak_mb']:,.0f}", "yes" if row["exact_reasons"] else "no"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
