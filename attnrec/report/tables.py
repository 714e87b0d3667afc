"""Metrics and faithfulness as plain rows for the page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

CUTOFF = "_at_10"
"""Metrics with this cutoff are shown; all metrics if none has it."""

FIRST_METRICS = ("ndcg", "hit_rate", "recall", "mrr")

FAITHFULNESS = ("pos_at_5", "neg_at_5", "comprehensiveness", "sufficiency", "tau")


def metric_rows(metrics: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """Return the table of metrics: the models, and for each metric its name and a cell (value, low, high) per model.

    Args:
        metrics: model -> metric -> value, or model -> {"metrics": {...}, "intervals": {metric: (low, high)},
            "n_users": n} as the evaluate stage writes it. The first model is the evaluated one.

    Returns:
        {"models": [...], "n_users": of the first model or None, "rows": [[metric, [value, low, high], ...], ...]}; a
            cell is None if the model lacks the metric.
    """
    if not metrics:
        return None
    values = {str(model): dict(result.get("metrics", result)) for model, result in metrics.items()}
    intervals = {str(model): dict(result.get("intervals", {})) for model, result in metrics.items()}
    n_users = next(iter(metrics.values())).get("n_users")
    names = list(dict.fromkeys(name for by_name in values.values() for name in by_name))
    names = sorted([name for name in names if name.endswith(CUTOFF)] or names, key=_metric_order)

    def cell(model: str, name: str) -> list[float | None] | None:
        if name not in values[model]:
            return None
        low, high = intervals[model].get(name, (None, None))
        return [number(values[model][name]), number(low), number(high)]

    rows = [[name, *(cell(model, name) for model in values)] for name in names]
    return {"models": list(values), "n_users": None if n_users is None else int(n_users), "rows": rows}


def _metric_order(metric: str) -> int:
    """Return the sort key: accuracy metrics first, others in their order."""
    name = metric.partition("_at_")[0]
    return FIRST_METRICS.index(name) if name in FIRST_METRICS else len(FIRST_METRICS)


def faithfulness_rows(table: pd.DataFrame | None) -> list[dict[str, Any]] | None:
    """Return the table of faithfulness, sorted by POS@5 if it was measured; lower is better.

    Args:
        table: one row per method: method, exact, control, some of `FAITHFULNESS`, and pos_at_5_low, pos_at_5_high.

    Raises:
        ValueError: if the column method or all of the metrics are missing.
    """
    if table is None or table.empty:
        return None
    columns = [name for name in FAITHFULNESS if name in table]
    if "method" not in table or not columns:
        raise ValueError(
            f"faithfulness needs the column method and one of {', '.join(FAITHFULNESS)}, got {list(table.columns)}; "
            "pass one row per method"
        )
    if "pos_at_5" in columns:
        table = table.sort_values("pos_at_5", kind="stable")
    columns += [name for name in ("pos_at_5_low", "pos_at_5_high") if name in table]
    return [
        {"method": str(row["method"]), "exact": bool(row.get("exact")), "control": bool(row.get("control"))}
        | {name: number(row[name]) for name in columns}
        for row in table.to_dict("records")
    ]


def number(value: Any) -> float | None:
    """Round to five significant digits for the page; None for NaN, infinities and None."""
    if value is None or not np.isfinite(value):
        return None
    return float(f"{value:.5g}")
