"""Common style of all figures: colours, markers, text sizes, grid and legends.

Colours are those of Okabe & Ito (2008, jfly.uni-koeln.de/color), which are distinguishable with any colour vision;
yellow is left out because it is too pale for text.
"""

from typing import TYPE_CHECKING, Any, Literal

from attnrec.evaluation.metrics import metric_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, BLACK, PURPLE, ORANGE, SKY = (
    *("#0072B2", "#D55E00", "#009E73", "#000000"),
    *("#CC79A7", "#E69F00", "#56B4E9"),
)
COLOURS = (BLUE, VERMILION, GREEN, BLACK, PURPLE, ORANGE, SKY)
MARKERS = "oD^svPX"
GREY = "#707070"
GRID = "#e5e5e5"
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 11, 10, 9  # points
INTERVAL: dict[str, Any] = {"alpha": 0.6, "linewidth": 1.8}
"""Lines of 95 % intervals."""

REFERENCE: dict[str, Any] = {"color": BLACK, "linewidth": 1, "linestyle": "--"}
"""Lines that other values are compared with."""


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches. It does not register with pyplot, so it needs no closing."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def style_axes(axes: "Axes", *, title: str = "", grid: Literal["x", "y", "both"] = "both") -> None:
    """Draw a light grid below the data, remove the upper and right frame lines, and set text sizes."""
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICK_SIZE)
    axes.xaxis.label.set_fontsize(LABEL_SIZE)
    axes.yaxis.label.set_fontsize(LABEL_SIZE)
    if title:
        axes.set_title(title, loc="left", fontsize=TITLE_SIZE)


def set_log_ticks(axis: "Axis") -> None:
    """Set the ticks of a log axis after plotting, labelled as 20, 20k, 1M: at 1, 2, 5, 10.

    A range of four orders of magnitude has ticks at powers of ten, a range below a factor of 4 evenly spaced ones.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    logarithmic = LogLocator(subs=(1, 2, 5) if high < 10_000 * low else (1,))
    axis.set_major_locator(logarithmic if high > 4 * low else MaxNLocator(8, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def short_number(value: float) -> str:
    """Return a number as text with at most one unit letter: 500, 20k, 1M, 3G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def legend_above(figure: "Figure", handles: "Sequence[Artist]", labels: "Sequence[str]", *, n_columns: int = 6) -> None:
    """Place a legend without a frame above all panels."""
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=max(1, min(len(labels), n_columns)),
        frameon=False,
        fontsize=TICK_SIZE,
    )


def mean_label(metric: str) -> str:
    """Return the axis label of a metric's mean with its interval."""
    return f"{metric_label(metric)} (mean over users, 95 % interval)"
