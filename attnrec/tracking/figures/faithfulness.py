"""Pictures of how true reasons are: curves as events leave and enter, and one measure for all methods.

Controls are grey, the exact method is the boldest, and every other has its own colour and marker.
"""

from itertools import cycle
from typing import TYPE_CHECKING, Any

from attnrec.attribution import METHODS
from attnrec.faithfulness import DIRECTIONS, Faithfulness
from attnrec.tracking.figures.comparison import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "deletion": ("Deletion: largest first out", "share of events taken out"),
    "insertion": ("Insertion: largest first in", "share of events put in"),
}
GREY, DASHES = "#707070", ((0, (8, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (2.5, 1.2, 1, 1.2, 1, 1.2)))
KINDS = {"exact": "D", "other method": "o", "control": "X"}
ROW_INCHES = 0.34


def curves_figure(measured: Faithfulness) -> "Figure":
    """Mean probability of the explained item as events leave and as they enter: a line per method, two panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    styles = _styles(measured.methods)
    for axes, (curve, (title, label)) in zip(panels, PANELS.items(), strict=True):
        rows = measured.curves[measured.curves["curve"] == curve]
        for method, style in styles.items():
            line = rows[rows["method"] == method]
            axes.plot(line["share"], line["probability"], label=_name(method), **style)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_xlim(-0.03, 1.03)
        _plain(axes)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("mean probability of the explained item")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, handlelength=3.2)
    return figure


def faithfulness_figure(measured: Faithfulness, *, metric: str = "pos_at_5") -> "Figure":
    """One measure of every method with its interval, best on top; controls are grey.

    Args:
        measured: from `measure`.
        metric: one with an interval in `Faithfulness.summary`.

    Raises:
        ValueError: when the summary has no interval of the metric.
    """
    from matplotlib.figure import Figure

    table = measured.summary()
    if f"{metric}_low" not in table:
        known = ", ".join(str(name).removesuffix("_low") for name in table if str(name).endswith("_low"))
        raise ValueError(f"metric must have an interval, got {metric!r}; take one of {known}")
    best = DIRECTIONS[metric.partition("_at_")[0]]
    table = table.sort_values(metric, ascending=best == "lower", kind="stable")
    figure = Figure(figsize=(8, ROW_INCHES * len(table) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(table.to_dict("records")):
        colour, kind = _kind(row)
        axes.hlines(place, row[f"{metric}_low"], row[f"{metric}_high"], color=colour, alpha=0.7, linewidth=1.8)
        axes.plot(
            row[metric], place, color=colour, marker=KINDS[kind], markersize=7, linestyle="", label=kind, zorder=3
        )
    axes.set_yticks(range(len(table)), [_name(method) for method in table["method"]])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    said = metric.upper().replace("_AT_", "@") if "_at_" in metric else metric
    axes.set_xlabel(f"{said} (mean over users, 95 % interval; {best} is better)")
    _plain(axes)
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    kinds = [kind for kind in KINDS if kind in entries]
    figure.legend([entries[kind] for kind in kinds], kinds, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _styles(methods: list[str]) -> dict[str, dict[str, Any]]:
    """How each method's line looks: told apart by more than its colour."""
    dashes, others = cycle(DASHES), zip(cycle(MARKERS), cycle(COLOURS[1:]), strict=False)
    styles: dict[str, dict[str, Any]] = {}
    for method in methods:
        if METHODS[method].exact:
            # under the thin ones, which it would hide
            styles[method] = {"color": COLOURS[0], "linewidth": 4.0, "zorder": 2.5}
        elif METHODS[method].control:
            styles[method] = {"color": GREY, "linewidth": 1.4, "linestyle": next(dashes)}
        else:
            marker, colour = next(others)
            styles[method] = {"color": colour, "linewidth": 1.6, "marker": marker, "markersize": 4.5, "zorder": 3}
    return styles


def _kind(row: dict[Any, Any]) -> tuple[str, str]:
    if row["exact"]:
        return COLOURS[0], "exact"
    return (GREY, "control") if row["control"] else (COLOURS[1], "other method")


def _name(method: str) -> str:
    return method.replace("_", " ")


def _plain(axes: "Axes") -> None:
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
