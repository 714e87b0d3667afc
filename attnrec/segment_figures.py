"""A picture of who is served how well: a panel per segment, a dot per group, everyone as a line."""

from typing import TYPE_CHECKING

import pandas as pd

from attnrec.segments import EVERYONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR, LAGGING = "#0072B2", "#D55E00"  # as comparison_figures has them
ROW_INCHES, TITLE_INCHES, LONGEST_NAME = 0.24, 0.42, 34


def segment_figure(table: pd.DataFrame, *, metric: str) -> "Figure":
    """Mean of each group with its interval, beside the mean of everyone; lagging groups in another colour.

    Args:
        table: from `by_segment`.
        metric: what `mean` is the mean of.

    Raises:
        ValueError: when a column is missing, or there is no segment.
    """
    from matplotlib.figure import Figure

    _check(table)
    everyone, groups = table[table["segment"] == EVERYONE].iloc[0], table[table["segment"] != EVERYONE]
    sizes = groups.groupby("segment", sort=False).size()
    heights = [ROW_INCHES * n + TITLE_INCHES for n in sizes]
    figure = Figure(figsize=(8, sum(heights) + 0.9), layout="constrained")
    panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, name in zip(panels, sizes.index, strict=True):
        axes.axvspan(everyone["low"], everyone["high"], color="#000000", alpha=0.08, linewidth=0)
        axes.axvline(everyone["mean"], color="#000000", linewidth=1, linestyle="--", label="everyone")
        _draw(axes, groups[groups["segment"] == name])
        axes.set_title(str(name).replace("_", " "), loc="left", fontsize=10, fontweight="bold")
        axes.margins(x=0.04)
    panels[0].set_title("users", loc="right", x=1.08, fontsize=9, color="#555555")
    panels[-1].set_xlabel(f"{metric.replace('_at_', '@')} (mean over users, 95 % interval)")
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _check(table: pd.DataFrame) -> None:
    missing = [n for n in ("segment", "group", "n_users", "mean", "low", "high", "lagging") if n not in table]
    if missing:
        raise ValueError(f"the figure needs {missing}, got {list(table.columns)}; pass a table of by_segment")
    names = set(table["segment"])
    if EVERYONE not in names or len(names) < 2:
        raise ValueError(f"the figure needs {EVERYONE!r} and a segment, got {sorted(names)}; pass all of by_segment")


def _draw(axes: "Axes", groups: pd.DataFrame) -> None:
    """One segment, its first group on top."""
    for lagging, colour, label in ((False, NEAR, "group"), (True, LAGGING, "lagging group")):
        chosen = (groups["lagging"] == lagging).to_numpy()
        rows, places = groups[chosen], chosen.nonzero()[0]
        if len(rows):
            axes.hlines(places, rows["low"], rows["high"], color=colour, alpha=0.6, linewidth=1.8)
            axes.scatter(
                rows["mean"], places, color=colour, marker="D" if lagging else "o", s=28, zorder=3, label=label
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
