"""Comparison of models: accuracy against cost, a point per model."""

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attnrec.tracking.figures.point_labels import label_points
from attnrec.tracking.figures.style import (
    COLOURS,
    MARKERS,
    legend_above,
    mean_label,
    new_figure,
    set_log_ticks,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = {
    "tokens_per_second": "training speed (tokens per second, more is cheaper)",
    "seconds": "time (seconds)",
    "seconds_to_best": "time to the best epoch (seconds)",
    "parameters": "size (number of parameters)",
    "peak_mb": "peak memory (MB)",
}
"""Axis labels of known cost columns; other columns are labelled with their name."""

GROUPS = ("attention", "convolution", "recurrence", "baseline")
"""Groups with the same colour in every figure; other groups take the remaining colours."""


def comparison_figure(table: pd.DataFrame, *, cost: str, metric: str) -> "Figure":
    """Plot accuracy against cost on a log axis: a point with its interval per model, a colour per group.

    Args:
        table: one row per model: model, group (its family), mean, low, high, and the cost.
        cost: the column of the cost; values must be above 0.
        metric: key of the metric that `mean` is the mean of.

    Raises:
        ValueError: if a column is missing, the table is empty, or a cost is not above 0.
    """
    _check(table, cost)
    figure = new_figure(9, 5.5)
    axes = figure.add_subplot()
    styles = _styles(table["group"])
    for group, (colour, marker) in styles.items():
        rows = table[table["group"] == group]
        axes.vlines(rows[cost], rows["low"], rows["high"], color=colour, alpha=0.6, linewidth=1.5)
        axes.scatter(rows[cost], rows["mean"], color=colour, marker=marker, s=36, zorder=3, label=group)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    set_log_ticks(axes.xaxis)
    axes.set_xlabel(COSTS.get(cost, cost.replace("_", " ")))
    axes.set_ylabel(mean_label(metric))
    style_axes(axes)
    legend_above(figure, *axes.get_legend_handles_labels())
    figure.draw_without_rendering()  # fixes the layout, which decides where the points lie
    label_points(axes, table, cost=cost, colours=[styles[group][0] for group in table["group"]])
    return figure


def _check(table: pd.DataFrame, cost: str) -> None:
    missing = [name for name in ("model", "group", "mean", "low", "high", cost) if name not in table]
    if missing:
        raise ValueError(
            f"the figure needs {missing}, got {list(table.columns)}; join the missing columns to the rows of "
            "compare_with_best"
        )
    if table.empty:
        raise ValueError("the figure needs a model, got none; pass a table with at least one row")
    invalid = table.loc[~((table[cost] > 0) & (table[cost] < np.inf)), "model"].tolist()
    if invalid:
        raise ValueError(
            f"{cost} must be above 0 on a log axis, got {invalid} without; leave them out or choose another cost"
        )


def _styles(groups: pd.Series) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each group in the table."""
    names = [*GROUPS, *sorted(set(groups) - set(GROUPS))]
    styles = zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    return {name: (colour, marker) for name, colour, marker in styles if (groups == name).any()}
