"""Segments of users: accuracy of each segment, exposure of items by popularity, and popularity lift by user group."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attnrec.evaluation.segments import ALL_USERS
from attnrec.tracking.figures.style import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    INTERVAL,
    MARKERS,
    REFERENCE,
    TICK_SIZE,
    VERMILION,
    legend_above,
    mean_label,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_INCHES, TITLE_INCHES, MAX_NAME_LENGTH = 0.24, 0.42, 34


def segment_figure(table: pd.DataFrame, *, metric: str) -> "Figure":
    """Plot the mean of each group with its interval, a panel per segment; the mean of all users is a dashed line.

    Underperforming groups have another colour and marker.

    Args:
        table: from `by_segment`.
        metric: key of the metric that `mean` is the mean of.

    Raises:
        ValueError: if a column or the row of all users is missing, or there is no segment.
    """
    _check(table)
    overall, groups = table[table["segment"] == ALL_USERS].iloc[0], table[table["segment"] != ALL_USERS]
    sizes = groups.groupby("segment", sort=False).size()
    heights = [ROW_INCHES * n + TITLE_INCHES for n in sizes]
    figure = new_figure(8, sum(heights) + 0.9)
    panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, name in zip(panels, sizes.index, strict=True):
        axes.axvspan(overall["low"], overall["high"], color=BLACK, alpha=0.08, linewidth=0)
        axes.axvline(overall["mean"], label=ALL_USERS, **REFERENCE)
        _draw_segment(axes, groups[groups["segment"] == name])
        style_axes(axes, title=str(name).replace("_", " "), grid="x")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.04)
    panels[0].set_title("users", loc="right", x=1.08, fontsize=TICK_SIZE, color=GREY)
    panels[-1].set_xlabel(mean_label(metric))
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend_above(figure, [*entries.values()], [*entries])
    return figure


def exposure_figure(exposure: pd.DataFrame, groups: pd.DataFrame) -> "Figure":
    """Plot the share of recommendations by decile of item popularity, and the popularity lift of each user group.

    Args:
        exposure: model, and the columns of `BeyondAccuracy.exposure`; the first model is drawn with the boldest line.
        groups: model, and the columns of `BeyondAccuracy.popularity_groups`.

    Raises:
        ValueError: if a column is missing, or no user has both a history and recommendations.
    """
    _check_columns(exposure, ("model", "decile", "n_items", "share", "low", "high"), "BeyondAccuracy.exposure")
    _check_columns(groups, ("model", "group", "n_users", "lift", "low", "high"), "BeyondAccuracy.popularity_groups")
    if exposure.empty or groups.empty:
        raise ValueError("the figure needs users with a history and a list, got none; leave it out")
    figure = new_figure(11, 4.6)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]})
    models = list(dict.fromkeys(exposure["model"]))
    _draw_exposure(left, exposure, models)
    _draw_lift(right, groups, models)
    style_axes(left, title="Exposure of items")
    style_axes(right, title="Popularity lift", grid="x")
    legend_above(figure, *left.get_legend_handles_labels())
    return figure


def _draw_exposure(axes: "Axes", exposure: pd.DataFrame, models: list[str]) -> None:
    from matplotlib.ticker import PercentFormatter

    for number, model in enumerate(models):
        rows, colour = exposure[exposure["model"] == model], COLOURS[number % len(COLOURS)]
        style = {"marker": MARKERS[number % len(MARKERS)], "markersize": 5, "linewidth": 1.2 if number else 2.4}
        axes.fill_between(rows["decile"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(rows["decile"], rows["share"], color=colour, label=model, zorder=3 - number * 0.1, **style)
    axes.axhline(0.1, label="share of events", **REFERENCE)
    first = exposure[exposure["model"] == models[0]]
    axes.set_xticks(
        first["decile"], [f"{d}\n{_item_count(n)}" for d, n in zip(first["decile"], first["n_items"], strict=True)]
    )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("decile of events, least popular items first (below: number of items)")
    axes.set_ylabel("share of recommendations")


def _draw_lift(axes: "Axes", groups: pd.DataFrame, models: list[str]) -> None:
    """Draw a row per group of users, the first at the top, with a point per model."""
    from matplotlib.ticker import PercentFormatter

    names = list(dict.fromkeys(groups["group"]))
    for number, model in enumerate(models):
        rows, colour = groups[groups["model"] == model], COLOURS[number % len(COLOURS)]
        y = np.array([names.index(name) for name in rows["group"]]) + 0.6 * ((number + 0.5) / len(models) - 0.5)
        axes.hlines(y, rows["low"], rows["high"], color=colour, **INTERVAL)
        axes.scatter(rows["lift"], y, color=colour, marker=MARKERS[number % len(MARKERS)], s=28, zorder=3)
    axes.axvline(0, **REFERENCE)
    sizes = groups.groupby("group")["n_users"].max()
    axes.set_yticks(range(len(names)), [f"{name}\n{sizes[name]:,} users" for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("mean popularity of lists relative to histories (0 % = equal)")


def _item_count(n: float) -> str:
    return f"{n:,.0f}" if n >= 1 else f"{n:.1g}"


def _check_columns(table: pd.DataFrame, required: tuple[str, ...], source: str) -> None:
    missing = [name for name in required if name not in table]
    if missing:
        raise ValueError(f"the figure needs {missing}, got {list(table.columns)}; pass a table of {source}")


def _check(table: pd.DataFrame) -> None:
    _check_columns(table, ("segment", "group", "n_users", "mean", "low", "high", "underperforming"), "by_segment")
    names = set(table["segment"])
    if ALL_USERS not in names or len(names) < 2:
        raise ValueError(
            f"the figure needs {ALL_USERS!r} and a segment, got {sorted(names)}; pass the whole table of by_segment"
        )


def _draw_segment(axes: "Axes", groups: pd.DataFrame) -> None:
    """Draw the groups of one segment, the first at the top."""
    for flag, colour, marker, label in ((False, BLUE, "o", "group"), (True, VERMILION, "D", "underperforming group")):
        selected = (groups["underperforming"] == flag).to_numpy()
        rows, y = groups[selected], selected.nonzero()[0]
        if len(rows):
            axes.hlines(y, rows["low"], rows["high"], color=colour, **INTERVAL)
            axes.scatter(rows["mean"], y, color=colour, marker=marker, s=28, zorder=3, label=label)
    axes.set_yticks(range(len(groups)), [_shorten(str(name)) for name in groups["group"]])
    beside = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": TICK_SIZE}
    for y, n_users in enumerate(groups["n_users"]):
        axes.text(1.08, y, f"{n_users:,}", color=GREY, **beside)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
