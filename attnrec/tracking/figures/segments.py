"""Pictures of who is served how well, and of which items are shown to whom."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attnrec.evaluation.segments import ALL_USERS
from attnrec.tracking.figures.comparison import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR, UNDERPERFORMING = "#0072B2", "#D55E00"  # as comparison_figures has them
ROW_INCHES, TITLE_INCHES, LONGEST_NAME = 0.24, 0.42, 34


def segment_figure(table: pd.DataFrame, *, metric: str) -> "Figure":
    """Mean of each group with its interval, beside that of everyone, a panel per segment; who lags in another colour.

    Args:
        table: from `by_segment`.
        metric: what `mean` is the mean of.

    Raises:
        ValueError: when a column is missing, or there is no segment.
    """
    from matplotlib.figure import Figure

    _check(table)
    everyone, groups = table[table["segment"] == ALL_USERS].iloc[0], table[table["segment"] != ALL_USERS]
    sizes = groups.groupby("segment", sort=False).size()
    heights = [ROW_INCHES * n + TITLE_INCHES for n in sizes]
    figure = Figure(figsize=(8, sum(heights) + 0.9), layout="constrained")
    panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, name in zip(panels, sizes.index, strict=True):
        axes.axvspan(everyone["low"], everyone["high"], color="#000000", alpha=0.08, linewidth=0)
        axes.axvline(everyone["mean"], color="#000000", linewidth=1, linestyle="--", label="all users")
        _draw(axes, groups[groups["segment"] == name])
        axes.set_title(str(name).replace("_", " "), loc="left", fontsize=10, fontweight="bold")
        axes.margins(x=0.04)
    panels[0].set_title("users", loc="right", x=1.08, fontsize=9, color="#555555")
    panels[-1].set_xlabel(f"{metric.replace('_at_', '@')} (mean over users, 95 % interval)")
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def exposure_figure(exposure: pd.DataFrame, groups: pd.DataFrame) -> "Figure":
    """Share of places by decile of item popularity, and how much more popular than their choices users' lists are.

    Args:
        exposure: model, and the columns of `BeyondAccuracy.exposure`; the first model is drawn strongest.
        groups: model, and the columns of `BeyondAccuracy.popularity_groups`.

    Raises:
        ValueError: when a column is missing, or nobody has a history and a list.
    """
    from matplotlib.figure import Figure

    _check_columns(exposure, ("model", "decile", "n_items", "share", "low", "high"), "BeyondAccuracy.exposure")
    _check_columns(groups, ("model", "group", "n_users", "lift", "low", "high"), "BeyondAccuracy.popularity_groups")
    if exposure.empty or groups.empty:
        raise ValueError("the figure needs users with a history and a list, got none; leave it out")
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]})
    models = list(dict.fromkeys(exposure["model"]))
    _draw_deciles(left, exposure, models)
    _draw_lifts(right, groups, models)
    for axes in (left, right):
        axes.grid(axis="both" if axes is left else "x", color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(models) + 1, frameon=False)
    return figure


def _draw_deciles(axes: "Axes", exposure: pd.DataFrame, models: list[str]) -> None:
    from matplotlib.ticker import PercentFormatter

    for place, model in enumerate(models):
        rows, colour = exposure[exposure["model"] == model], COLOURS[place % len(COLOURS)]
        style = {"marker": MARKERS[place % len(MARKERS)], "markersize": 5, "linewidth": 1.2 if place else 2.4}
        axes.fill_between(rows["decile"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(rows["decile"], rows["share"], color=colour, label=model, zorder=3 - place * 0.1, **style)
    axes.axhline(0.1, color="#000000", linewidth=1, linestyle="--", label="as items are used")
    first = exposure[exposure["model"] == models[0]]
    axes.set_xticks(
        first["decile"], [f"{d}\n{_items(n)}" for d, n in zip(first["decile"], first["n_items"], strict=True)]
    )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("tenths of all events, least popular items first; below, how many items")
    axes.set_ylabel("share of the places in lists")


def _draw_lifts(axes: "Axes", groups: pd.DataFrame, models: list[str]) -> None:
    """A row per group of users, the first on top, and in it a point per model."""
    from matplotlib.ticker import PercentFormatter

    names = list(dict.fromkeys(groups["group"]))
    for place, model in enumerate(models):
        rows, colour = groups[groups["model"] == model], COLOURS[place % len(COLOURS)]
        at = np.array([names.index(name) for name in rows["group"]]) + 0.6 * ((place + 0.5) / len(models) - 0.5)
        axes.hlines(at, rows["low"], rows["high"], color=colour, alpha=0.6, linewidth=1.8)
        axes.scatter(rows["lift"], at, color=colour, marker=MARKERS[place % len(MARKERS)], s=28, zorder=3)
    axes.axvline(0, color="#000000", linewidth=1, linestyle="--")
    sizes = groups.groupby("group")["n_users"].max()
    axes.set_yticks(range(len(names)), [f"{name}\n{sizes[name]:,} users" for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("how much more popular lists are than own choices")


def _items(n: float) -> str:
    return f"{n:,.0f}" if n >= 1 else f"{n:.1g}"


def _check_columns(table: pd.DataFrame, wanted: tuple[str, ...], source: str) -> None:
    missing = [name for name in wanted if name not in table]
    if missing:
        raise ValueError(f"the figure needs {missing}, got {list(table.columns)}; pass a table of {source}")


def _check(table: pd.DataFrame) -> None:
    _check_columns(table, ("segment", "group", "n_users", "mean", "low", "high", "underperforming"), "by_segment")
    names = set(table["segment"])
    if ALL_USERS not in names or len(names) < 2:
        raise ValueError(f"the figure needs {ALL_USERS!r} and a segment, got {sorted(names)}; pass all of by_segment")


def _draw(axes: "Axes", groups: pd.DataFrame) -> None:
    """One segment, its first group on top."""
    for underperforming, colour, label in ((False, NEAR, "group"), (True, UNDERPERFORMING, "underperforming group")):
        chosen = (groups["underperforming"] == underperforming).to_numpy()
        rows, places = groups[chosen], chosen.nonzero()[0]
        if len(rows):
            axes.hlines(places, rows["low"], rows["high"], color=colour, alpha=0.6, linewidth=1.8)
            axes.scatter(
                rows["mean"], places, color=colour, marker="D" if underperforming else "o", s=28, zorder=3, label=label
            )
    axes.set_yticks(range(len(groups)), [_short(str(name)) for name in groups["group"]])
    beside = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 9, "color": "#555555"}
    for place, n in enumerate(groups["n_users"]):
        axes.text(1.08, place, f"{n:,}", **beside)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
