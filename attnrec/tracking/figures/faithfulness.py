"""Faithfulness of attribution methods: deletion and insertion curves, and one metric of all methods.

Controls are grey, the exact method has the boldest line, and every other method has its own colour and marker.
"""

from itertools import cycle
from typing import TYPE_CHECKING, Any

from attnrec.attribution import METHODS
from attnrec.faithfulness import DIRECTIONS, Faithfulness
from attnrec.tracking.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    INTERVAL,
    MARKERS,
    TICK_SIZE,
    VERMILION,
    legend_above,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "deletion": ("Deletion: largest attribution first", "share of events removed"),
    "insertion": ("Insertion: largest attribution first", "share of events inserted"),
}
DASHES = ((0, (8, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (2.5, 1.2, 1, 1.2, 1, 1.2)))
KIND_MARKERS = {"exact": "D", "other method": "o", "control": "X"}
ROW_INCHES = 0.34


def curves_figure(measured: Faithfulness) -> "Figure":
    """Plot the mean probability of the explained item while events are removed and inserted, a line per method."""
    figure = new_figure(10, 4.8)
    panels = figure.subplots(1, 2, sharey=True)
    styles = _styles(measured.methods)
    for axes, (curve, (title, label)) in zip(panels, PANELS.items(), strict=True):
        rows = measured.curves[measured.curves["curve"] == curve]
        for method, style in styles.items():
            line = rows[rows["method"] == method]
            axes.plot(line["share"], line["probability"], label=_text(method), **style)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_xlim(-0.03, 1.03)
        style_axes(axes, title=title)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("mean probability of the explained item")
    handles, labels = panels[0].get_legend_handles_labels()
    options = {"loc": "outside right upper", "frameon": False, "handlelength": 3.2, "fontsize": TICK_SIZE}
    figure.legend(handles, labels, **options)
    return figure


def faithfulness_figure(measured: Faithfulness, *, metric: str = "pos_at_5") -> "Figure":
    """Plot one metric of every method with its 95 % interval, the best method at the top.

    Args:
        measured: from `measure`.
        metric: a metric with an interval in `Faithfulness.summary`.

    Raises:
        ValueError: if the summary has no interval of the metric.
    """
    table = measured.summary()
    if f"{metric}_low" not in table:
        choices = ", ".join(str(name).removesuffix("_low") for name in table if str(name).endswith("_low"))
        raise ValueError(f"metric must have an interval, got {metric!r}; take one of {choices}")
    better = DIRECTIONS[metric.partition("_at_")[0]]
    table = table.sort_values(metric, ascending=better == "lower", kind="stable")
    figure = new_figure(8, ROW_INCHES * len(table) + 1.3)
    axes = figure.add_subplot()
    for y, row in enumerate(table.to_dict("records")):
        colour, kind = _colour_and_kind(row)
        axes.hlines(y, row[f"{metric}_low"], row[f"{metric}_high"], color=colour, **INTERVAL)
        style = {"marker": KIND_MARKERS[kind], "markersize": 7, "linestyle": "", "zorder": 3}
        axes.plot(row[metric], y, color=colour, label=kind, **style)
    axes.set_yticks(range(len(table)), [_text(method) for method in table["method"]])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    name = metric.upper().replace("_AT_", "@") if "_at_" in metric else metric
    axes.set_xlabel(f"{name} (mean over users, 95 % interval; {better} is better)")
    style_axes(axes)
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    kinds = [kind for kind in KIND_MARKERS if kind in handles]
    legend_above(figure, [handles[kind] for kind in kinds], kinds)
    return figure


def _styles(methods: list[str]) -> dict[str, dict[str, Any]]:
    """Return line styles of the methods; they differ by more than colour."""
    dashes, others = cycle(DASHES), zip(cycle(MARKERS), cycle(COLOURS[1:]), strict=False)
    styles: dict[str, dict[str, Any]] = {}
    for method in methods:
        if METHODS[method].exact:
            # below the thin lines, which it would hide
            styles[method] = {"color": BLUE, "linewidth": 4.0, "zorder": 2.5}
        elif METHODS[method].control:
            styles[method] = {"color": GREY, "linewidth": 1.4, "linestyle": next(dashes)}
        else:
            marker, colour = next(others)
            styles[method] = {"color": colour, "linewidth": 1.6, "marker": marker, "markersize": 4.5, "zorder": 3}
    return styles


def _colour_and_kind(row: dict[Any, Any]) -> tuple[str, str]:
    if row["exact"]:
        return BLUE, "exact"
    return (GREY, "control") if row["control"] else (VERMILION, "other method")


def _text(method: str) -> str:
    return method.replace("_", " ")
