"""Pictures of models beside each other: accuracy against what it costs.

Boxes are (left, bottom, right, top) and places (x, y), all in points of 1/72 inch.
"""

from itertools import cycle, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]

COSTS = {
    "tokens_per_second": "training speed (tokens per second, more is cheaper)",
    "seconds": "time (seconds)",
    "seconds_to_best": "time to the best epoch (seconds)",
    "parameters": "size (number of parameters)",
    "peak_mb": "peak memory (MB)",
}
"""What is written under the axis; another column is called by its own name."""

GROUPS = ("attention", "convolution", "recurrence", "baseline")
"""Have the same colour in every figure; other groups take those left."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart with any colour vision (Okabe & Ito 2008, jfly.uni-koeln.de/color), less yellow, too pale for text."""

MARKERS = "oD^svPX"
SIDES = [(1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1)]
SIDES += [(x * a, y * b) for a, b in ((1, 0.5), (0.5, 1)) for x in (1, -1) for y in (1, -1)]
GAPS = (5, 9, 13, 18, 25, 34, 45, 60)
FAR = 15  # points from which on a line leads to the name


def comparison_figure(table: pd.DataFrame, *, cost: str, metric: str) -> "Figure":
    """Accuracy against cost: a point per model with its interval, a colour per group, costs on a log axis.

    Args:
        table: one row per model: model, group (its family), mean, low, high, and the cost.
        cost: the column of the cost, above 0.
        metric: what `mean` is the mean of.

    Raises:
        ValueError: when a column is missing, or a model's cost is not above 0.
    """
    from matplotlib.figure import Figure

    _check(table, cost)
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    styles = _styles(table["group"])
    for group, (colour, marker) in styles.items():
        rows = table[table["group"] == group]
        axes.vlines(rows[cost], rows["low"], rows["high"], color=colour, alpha=0.6, linewidth=1.5)
        axes.scatter(rows[cost], rows["mean"], color=colour, marker=marker, s=36, zorder=3, label=group)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    _number_ticks(axes)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(COSTS.get(cost, cost.replace("_", " ")))
    axes.set_ylabel(f"{metric.replace('_at_', '@')} (mean over users, 95 % interval)")
    figure.legend(loc="outside upper center", ncols=min(len(styles), 6), frameon=False)
    figure.draw_without_rendering()  # the layout decides where points lie, and names are placed beside them
    _label_points(axes, table, cost)
    return figure


def _check(table: pd.DataFrame, cost: str) -> None:
    missing = [name for name in ("model", "group", "mean", "low", "high", cost) if name not in table]
    if missing:
        raise ValueError(
            f"the figure needs {missing}, got {list(table.columns)}; join them to compare_with_best's rows"
        )
    if table.empty:
        raise ValueError("the figure needs a model, got none; check where the table was read")
    free = table.loc[~((table[cost] > 0) & (table[cost] < np.inf)), "model"].tolist()
    if free:
        raise ValueError(f"{cost} must be above 0 on a log axis, got {free} without; leave them out or take another")


def _styles(groups: pd.Series) -> dict[str, tuple[str, str]]:
    """Colour and marker of each group that occurs."""
    names = [*GROUPS, *sorted(set(groups) - set(GROUPS))]
    styles = zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    return {name: (colour, marker) for name, colour, marker in styles if (groups == name).any()}


def _number_ticks(axes: "Axes") -> None:
    """1, 2, 5, 10 where there is room, powers of ten where not, even steps in a narrow range; as 20k and 1M."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_xlim()
    logarithmic = LogLocator(subs=(1, 2, 5) if high < 10_000 * low else (1,))
    axes.xaxis.set_major_locator(logarithmic if high > 4 * low else MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _label_points(axes: "Axes", table: pd.DataFrame, cost: str) -> None:
    """Write each model's name beside its point, in its group's colour."""
    from matplotlib.text import Text

    figure, styles = axes.get_figure(root=True), _styles(table["group"])
    assert figure is not None
    points = 72 / figure.dpi
    spots, lows, highs = (
        axes.transData.transform(table[[cost, name]].to_numpy(dtype=float)) * points for name in ("mean", "low", "high")
    )
    labels = [
        axes.annotate(
            str(name),
            (value, mean),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            color=styles[group][0],
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )
        for name, group, value, mean in zip(table["model"], table["group"], table[cost], table["mean"], strict=True)
    ]
    # of the text without its line, and with air, or two names read as one
    sizes = np.array([Text.get_window_extent(label).size for label in labels]) * points + (4, 0)
    taken = np.vstack([np.hstack([spots - 5, spots + 5]), np.hstack([lows - (2, 0), highs + (2, 0)])])
    frame = np.array(axes.get_window_extent().extents) * points
    for label, spot, box in zip(labels, spots, _boxes_beside(spots, sizes, taken=taken, frame=frame), strict=True):
        label.set_position(tuple((box[:2] + box[2:]) / 2 - spot))
        label.set_in_layout(False)  # or a name would move the points it was placed by
        assert label.arrow_patch is not None
        label.arrow_patch.set_visible(len(_line(box, spot)) > 0)


def _boxes_beside(spots: Values, sizes: Values, *, taken: Values, frame: Values) -> Values:
    """A box for each spot: the nearest place that is free, else the one that covers least.

    Args:
        spots: n places, (n, 2).
        sizes: width and height of each box, (n, 2).
        taken: boxes that stand already, (m, 4).
        frame: the box to stay in, (4,).
    """
    boxes: dict[int, Values] = {}
    for number in [*range(len(spots))] * 3:  # later rounds use what other names have left since
        spot, size = spots[number], sizes[number]
        names = [_with_line(box, spots[other]) for other, box in boxes.items() if other != number]
        standing = np.vstack([taken, *names])
        gaps = np.array([gap * np.array(side) for gap, side in product(GAPS, SIDES)])
        centres = spot + gaps + np.sign(gaps) * size / 2
        places = np.hstack([centres - size / 2, centres + size / 2])
        least = np.inf
        for place in places:  # nearest first
            clutter = round(_clutter(place, spot, spots, standing, frame), 6)
            if clutter < least:
                boxes[number], least = place, clutter
            if not clutter:
                break
    return np.stack([boxes[number] for number in range(len(spots))])


def _clutter(box: Values, spot: Values, spots: Values, taken: Values, frame: Values) -> float:
    """What the box covers, what of it is cut off, whether its line crosses something or it is read as another's."""
    area = (box[2:] - box[:2]).prod()
    others = spots[(spots != spot).any(axis=1)]
    strange = taken[((spot < taken[:, :2]) | (spot > taken[:, 2:])).any(axis=1)]
    crossed = any((_shared(piece, strange) > 0).any() for piece in _with_line(box, spot)[1:])
    misread = not len(_line(box, spot)) and 1.5 * _gaps(box, spot[None])[0] > _gaps(box, others).min(initial=np.inf)
    cut = area - _shared(box, frame[None])[0]
    return _shared(box, taken).sum() + 10 * cut + area * (crossed + misread)


def _line(box: Values, spot: Values) -> Values:
    """Places on the line that leads from a box far away to its spot, (n, 2); none where the box is near."""
    if _gaps(box, spot[None])[0] <= FAR:
        return np.empty((0, 2))
    return np.linspace((box[:2] + box[2:]) / 2, spot, 24)


def _with_line(box: Values, spot: Values) -> Values:
    """The box and small ones along its line, (n, 4)."""
    line = _line(box, spot)
    return np.vstack([box, np.hstack([line - 1, line + 1])])


def _shared(box: Values, others: Values) -> Values:
    """Area that the box has in common with each of n others, (n,)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.maximum(sides, 0).prod(axis=1)


def _gaps(box: Values, spots: Values) -> Values:
    """Distance of the box from each of n spots, 0 inside, (n,)."""
    return np.hypot(*np.maximum(np.maximum(box[:2] - spots, spots - box[2:]), 0).T)
