"""What a run shows in the MLflow UI: at most 15 params and 25 metrics, named for the order in which the UI lists them.

The UI sorts by name, and groups charts by the prefix before "/". The main test metric, "main/ndcg_at_10", comes before
"test/...", "train/..." and "val/...". Everything else that is measured is in the artifacts `evaluation/` and `tables/`.
"""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_PARAMS, MAX_METRICS = 15, 25

PARAMS = (
    *("attention", "batch_size", "dim", "dropout", "encoder", "heads", "layers", "learning_rate", "loss"),
    *("max_length", "objective", "readout", "seed"),
)
"""Settings that people compare. `architecture`, the kind of model, and `data` come with every run."""

OTHERS = {"kind", "scores", "temperature", "item_bias", "n_negatives", "negatives_per"}
"""Settings that are not logged as params, of which there are at most 15."""

TEST_METRICS = (
    *("ndcg", "hit_rate", "recall", "mrr", "coverage", "gini", "novelty", "popularity_lift", "mean_popularity"),
)
"""Test metrics of a run, at the k of the main metric."""

EPOCH_METRICS = ("train/loss", "train/seconds", "train/tokens_per_second", "train/peak_mb")
"""Training metrics of each epoch, besides the validation metric."""

FAITHFULNESS_METRICS = ("pos_at_5", "neg_at_5", "tau")
"""Faithfulness of the model's own reasons."""


def run_params(model: Mapping[str, Any], training: Mapping[str, Any], *, data: str) -> dict[str, Any]:
    """Select the settings of a run that people compare, at most `MAX_PARAMS`.

    Args:
        model: all settings of the model, with its kind.
        training: all settings of the training; empty for a model that is not trained by gradient steps.
        data: name of the data.
    """
    settings = {**training, **model}
    params: dict[str, Any] = {"architecture": model["kind"], "data": data}
    params |= {name: settings[name] for name in PARAMS if name in settings}
    for name, value in model.items():  # settings of this kind of model only, such as the hops of a random walk
        if len(params) < MAX_PARAMS and name not in OTHERS and _is_short(value):
            params.setdefault(name, value)
    return params


def main_metric(name: str) -> str:
    """Return the MLflow name of the main test metric."""
    return f"main/{name}"


def test_metrics(metrics: Mapping[str, float], *, main: str) -> dict[str, float]:
    """Select the test metrics of a run: the main one as "main/NAME_at_k", others at the same k as "test/NAME_at_k"."""
    k = main.rsplit("_", 1)[-1]
    names = [name for base in TEST_METRICS if (name := f"{base}_at_{k}") in metrics and name != main]
    return {main_metric(main): metrics[main]} | {f"test/{_legal(name)}": metrics[name] for name in names}


test_metrics.__test__ = False  # type: ignore[attr-defined]  # the name is a noun, not a test


def epoch_metrics(report: Mapping[str, float], *, validation: str) -> dict[str, float]:
    """Select the metrics of one epoch: `EPOCH_METRICS` and the validation metric that chooses the epoch."""
    return {name: value for name, value in report.items() if name in (*EPOCH_METRICS, f"val/{validation}")}


def faithfulness_metrics(summary: Sequence[Mapping[Any, Any]], *, method: str) -> dict[str, float]:
    """Select the faithfulness metrics of one attribution method from `Faithfulness.summary` rows."""
    rows = [row for row in summary if row["method"] == method]
    return {f"test/{name}": row[name] for row in rows for name in FAITHFULNESS_METRICS if name in row}


def description(
    metrics: Mapping[str, Mapping[str, float]], *, main: str, model: str, paragraphs: Sequence[str], links: str = ""
) -> str:
    """Write the description of a run in markdown: result, comparison with baselines, findings, links.

    Args:
        metrics: test metrics by model, the evaluated model under "challenger".
        main: name of the main metric.
        model: name of the evaluated model.
        paragraphs: findings, each a paragraph.
        links: a line of links.
    """
    value = metrics["challenger"][main]
    baselines = {name: other[main] for name, other in metrics.items() if name != "challenger"}
    against = [f"{value / other:.1f} x {name} ({other:.4f})" for name, other in baselines.items() if other > 0]
    headline = f"**{main.replace('_at_', '@')} {value:.4f}** on the test part" + (
        f": {', '.join(against)}" * bool(against)
    )
    columns = list(dict.fromkeys([main, *(name for name in ("hit_rate_at_10", "mrr_at_10", "coverage_at_10"))]))
    columns = [name for name in columns if name in metrics["challenger"]]
    head = [
        "| model | " + " | ".join(name.replace("_at_", "@") for name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    names = {"challenger": model}
    rows = [
        f"| {names.get(name, name)} | " + " | ".join(f"{values[column]:.4f}" for column in columns) + " |"
        for name, values in metrics.items()
    ]
    parts = [f"{headline}.", links, "\n".join([*head, *rows]), *paragraphs]
    return "\n\n".join(part for part in parts if part)


def artifact_links(experiment_id: str, run_id: str, paths: Mapping[str, str]) -> str:
    """Return a line of markdown links to artifacts of a run, by name; the addresses are relative to MLflow's pages."""
    base = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts"
    return " · ".join(f"[{name}]({base}/{path})" for name, path in paths.items())


def machine() -> str:
    """Describe this machine: processor architecture, cores, and the GPU if torch sees one."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}"


def _is_short(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | None) and len(str(value)) <= 40


def _legal(name: str) -> str:
    """Replace characters that MLflow refuses in metric names."""
    return re.sub(r"[^\w.-]", "_", name)
