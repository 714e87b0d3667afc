"""The summary at the top of a report: one headline and the key figures, compared with the best baseline.

The evaluated model is the first of the metrics table, all others are baselines.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Mark = Literal["better", "worse", "similar", ""]
Cell = Sequence[Any] | None

BASELINE_NAMES = {"item_knn": "item-kNN", "v_sknn": "V-SKNN", "ease": "EASE", "popularity": "popularity"}
METRIC_NAMES = {"ndcg": "NDCG", "hit_rate": "HR", "mrr": "MRR", "map": "MAP", "f1": "F1"}
FIGURES = (
    ("ndcg", "Ranking quality", False),
    ("hit_rate", "Users with a hit in the top {k}", True),
    ("coverage", "Items in at least one top {k}", True),
)
"""Metric, label and whether it is shown in per cent; for all of them higher is better."""


@dataclass(frozen=True)
class Figure:
    """One number of the summary.

    Attributes:
        label: in plain words.
        value: the number as text.
        metric: its technical name and direction, "NDCG@10, higher is better".
        mark: comparison with the best baseline or control; "similar" if the 95 % intervals overlap.
        comparison: what it is compared with, "item-kNN (0.106)".
    """

    label: str
    value: str
    metric: str = ""
    mark: Mark = ""
    comparison: str = ""


def summary_of(
    metrics: dict[str, Any] | None,
    faithfulness: list[dict[str, Any]] | None,
    *,
    exact: bool,
    n_users: int,
) -> dict[str, Any]:
    """Return the headline and the figures.

    Args:
        metrics: the result of `tables.metric_rows`.
        faithfulness: the result of `tables.faithfulness_rows`.
        exact: whether scores are sums over the history.
        n_users: number of users with recommendations.

    Returns:
        {"headline": text or "", "detail": text or "", "mark": Mark, "figures": [Figure as a dict, ...]}.
    """
    headline = {"headline": "", "detail": "", "mark": ""} if metrics is None else _headline(metrics)
    figures = [] if metrics is None else _metric_figures(metrics)
    figures += [_reasons_figure(faithfulness, exact=exact), _users_figure(metrics, n_users)]
    return headline | {"figures": [asdict(figure) for figure in figures]}


def _headline(metrics: dict[str, Any]) -> dict[str, str]:
    """Return the ratio to the best baseline on the first metric, which is NDCG where it was computed."""
    name, cell, *others = metrics["rows"][0]
    users = "" if metrics["n_users"] is None else f", {metrics['n_users']:,} users"
    title, baseline = metric_title(name), _best(metrics["models"][1:], others)
    if cell is None or cell[0] is None:
        return {"headline": "", "detail": "", "mark": ""}
    if baseline is None or baseline[1][0] == 0:
        interval = "" if None in cell else f"95 % interval {_interval(cell)}. "
        detail = f"{interval}There is no baseline to compare with."
        return {"headline": f"{title} {_number(cell[0])}{users}", "detail": detail, "mark": ""}
    best, best_cell = baseline
    mark = _mark(cell, best_cell)
    verdict = {
        "better": f"Better than {best}, the best baseline",
        "worse": f"Worse than {best}, the best baseline",
        "similar": f"Not clearly different from {best}, the best baseline, because the 95 % intervals overlap",
    }[mark]
    values = f"{title} {_number(cell[0])} against {_number(best_cell[0])}"
    if None not in (*cell, *best_cell):
        values += f" (95 % intervals {_interval(cell)} and {_interval(best_cell)})"
    ratio = _ratio(cell[0] / best_cell[0])
    return {"headline": f"{ratio} × {best} on {title}{users}", "detail": f"{verdict}: {values}.", "mark": mark}


def _metric_figures(metrics: dict[str, Any]) -> list[Figure]:
    figures = []
    for metric, label, per_cent in FIGURES:
        row = next((row for row in metrics["rows"] if row[0].partition("_at_")[0] == metric), None)
        if row is None or row[1] is None or row[1][0] is None:
            continue
        name, cell, *others = row
        text, baseline = _per_cent if per_cent else _number, _best(metrics["models"][1:], others)
        figures.append(
            Figure(
                label.format(k=name.partition("_at_")[2]),
                text(cell[0]),
                f"{metric_title(name)}, higher is better",
                "" if baseline is None else _mark(cell, baseline[1]),
                "" if baseline is None else f"{baseline[0]} ({text(baseline[1][0])})",
            )
        )
    return figures


def _reasons_figure(faithfulness: list[dict[str, Any]] | None, *, exact: bool) -> Figure:
    """Return whether reasons are exact, and faithful: POS@5 of the exact method against the best control."""
    label = "Reasons"
    if not exact:
        return Figure(label, "Not exact", "scores are not sums over the history")
    rows = [row for row in faithfulness or [] if row.get("pos_at_5") is not None]
    measured = next((row for row in rows if row["exact"]), None)
    controls = [row for row in rows if row["control"]]
    if measured is None or not controls:
        return Figure(label, "Exact", "contributions sum to the score; faithfulness not measured")
    best = min(controls, key=lambda row: row["pos_at_5"])
    one, other = (
        _negated([row["pos_at_5"], row.get("pos_at_5_low"), row.get("pos_at_5_high")]) for row in (measured, best)
    )
    mark = _mark(one, other)
    value = {"better": "Exact, faithful", "worse": "Exact, not faithful", "similar": "Exact, unclear"}[mark]
    control = f"{best['method'].replace('_', ' ')}, the best control ({_number(best['pos_at_5'])})"
    return Figure(label, value, f"POS@5 {_number(measured['pos_at_5'])}, lower is better", mark, control)


def _users_figure(metrics: dict[str, Any] | None, n_users: int) -> Figure:
    evaluated = None if metrics is None else metrics["n_users"]
    return Figure(
        "Users with recommendations",
        f"{n_users:,}",
        "" if evaluated is None else f"{evaluated:,} users in the evaluation",
    )


def _best(names: Sequence[str], cells: Sequence[Cell]) -> tuple[str, Sequence[Any]] | None:
    """Return the name and cell of the largest value."""
    values = [(name, cell) for name, cell in zip(names, cells, strict=True) if cell is not None and cell[0] is not None]
    if not values:
        return None
    name, cell = max(values, key=lambda pair: pair[1][0])
    return BASELINE_NAMES.get(name, name.replace("_", " ")), cell


def _mark(cell: Sequence[Any], other: Sequence[Any]) -> Mark:
    """Compare two (value, low, high) of which the higher is better; without intervals by the values alone."""
    (value, low, high), (other_value, other_low, other_high) = cell, other
    if None in (low, high, other_low, other_high):
        return "similar" if value == other_value else "better" if value > other_value else "worse"
    if low > other_high:
        return "better"
    return "worse" if high < other_low else "similar"


def _negated(cell: Sequence[float | None]) -> list[float | None]:
    value, low, high = (None if number is None else -number for number in cell)
    return [value, high, low]


def metric_title(name: str) -> str:
    """Return the metric as it is written in text: "NDCG@10", "coverage@10"."""
    metric, _, k = name.partition("_at_")
    return METRIC_NAMES.get(metric, metric.replace("_", " ")) + (f"@{k}" if k else "")


def _ratio(ratio: float) -> str:
    """Return a ratio with two significant digits, and two decimals near 1, where 1.0 would hide the direction."""
    return f"{ratio:.2f}" if ratio < 1.1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _per_cent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(cell: Sequence[Any]) -> str:
    return f"{_number(cell[1])} to {_number(cell[2])}"
