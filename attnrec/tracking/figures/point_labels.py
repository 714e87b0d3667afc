"""Text labels beside the points of a scatter plot, placed so that they cover neither points, intervals nor each other.

Greedy placement in three rounds: each label takes the nearest free position around its point. A label far from its
point gets a leader line.
Boxes are (left, bottom, right, top) and points (x, y), all in points of 1/72 inch.
"""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.tracking.figures.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = NDArray[np.float64]

DIRECTIONS = [(1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1)]
DIRECTIONS += [(x * a, y * b) for a, b in ((1, 0.5), (0.5, 1)) for x in (1, -1) for y in (1, -1)]
DISTANCES = (5, 9, 13, 18, 25, 34, 45, 60)
LEADER_DISTANCE = 15  # labels farther than this from their point get a leader line
N_ROUNDS = 3
FONT_SIZE = 8.5


def label_points(axes: "Axes", table: pd.DataFrame, *, cost: str, colours: Sequence[str]) -> None:
    """Write each model's name beside its point. Call it after the layout is final, because it reads positions.

    Args:
        axes: with a point (cost, mean) and an interval low to high per row.
        table: model, mean, low, high and the cost.
        cost: name of the column on the x axis.
        colours: colour of each row's text.
    """
    from matplotlib.text import Text

    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = 72 / figure.dpi
    points, lows, highs = (
        axes.transData.transform(table[[cost, name]].to_numpy(dtype=float)) * scale for name in ("mean", "low", "high")
    )
    labels = [
        axes.annotate(
            str(name),
            (value, mean),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=FONT_SIZE,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )
        for name, colour, value, mean in zip(table["model"], colours, table[cost], table["mean"], strict=True)
    ]
    # Text's own extent excludes the leader line; 4 points of margin keep two labels from reading as one
    sizes = np.array([Text.get_window_extent(label).size for label in labels]) * scale + (4, 0)
    occupied = np.vstack([np.hstack([points - 5, points + 5]), np.hstack([lows - (2, 0), highs + (2, 0)])])
    frame = np.array(axes.get_window_extent().extents) * scale
    boxes = _place_boxes(points, sizes, occupied=occupied, frame=frame)
    for label, point, box in zip(labels, points, boxes, strict=True):
        label.set_position(tuple((box[:2] + box[2:]) / 2 - point))
        label.set_in_layout(False)  # otherwise the label would change the layout that it was placed in
        assert label.arrow_patch is not None
        label.arrow_patch.set_visible(len(_leader(box, point)) > 0)


def _place_boxes(points: Values, sizes: Values, *, occupied: Values, frame: Values) -> Values:
    """Return a box for each point: the nearest candidate without a penalty, otherwise the one with the lowest penalty.

    Args:
        points: (n, 2).
        sizes: width and height of each box, (n, 2).
        occupied: boxes that must not be covered, (m, 4).
        frame: the box that labels must stay inside, (4,).
    """
    boxes: dict[int, Values] = {}
    for number in [*range(len(points))] * N_ROUNDS:  # later rounds use space that other labels have left
        point, size = points[number], sizes[number]
        others = [_with_leader(box, points[other]) for other, box in boxes.items() if other != number]
        obstacles = np.vstack([occupied, *others])
        offsets = np.array([distance * np.array(side) for distance, side in product(DISTANCES, DIRECTIONS)])
        centres = point + offsets + np.sign(offsets) * size / 2
        candidates = np.hstack([centres - size / 2, centres + size / 2])
        lowest = np.inf
        for candidate in candidates:  # nearest first
            penalty = round(_penalty(candidate, point, points, obstacles, frame), 6)
            if penalty < lowest:
                boxes[number], lowest = candidate, penalty
            if not penalty:
                break
    return np.stack([boxes[number] for number in range(len(points))])


def _penalty(box: Values, point: Values, points: Values, obstacles: Values, frame: Values) -> float:
    """Return the covered area, plus penalties for a cut-off box, a crossing leader line and a nearer foreign point."""
    area = (box[2:] - box[:2]).prod()
    others = points[(points != point).any(axis=1)]
    foreign = obstacles[((point < obstacles[:, :2]) | (point > obstacles[:, 2:])).any(axis=1)]
    crossed = any((_overlap(piece, foreign) > 0).any() for piece in _with_leader(box, point)[1:])
    ambiguous = not len(_leader(box, point)) and 1.5 * _distances(box, point[None])[0] > _distances(box, others).min(
        initial=np.inf
    )
    cut_off = area - _overlap(box, frame[None])[0]
    return _overlap(box, obstacles).sum() + 10 * cut_off + area * (crossed + ambiguous)


def _leader(box: Values, point: Values) -> Values:
    """Return samples of the leader line from a distant box to its point, (n, 2); none for a near box."""
    if _distances(box, point[None])[0] <= LEADER_DISTANCE:
        return np.empty((0, 2))
    return np.linspace((box[:2] + box[2:]) / 2, point, 24)


def _with_leader(box: Values, point: Values) -> Values:
    """Return the box and small boxes along its leader line, (n, 4)."""
    line = _leader(box, point)
    return np.vstack([box, np.hstack([line - 1, line + 1])])


def _overlap(box: Values, others: Values) -> Values:
    """Return the area that the box shares with each of n other boxes, (n,)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.maximum(sides, 0).prod(axis=1)


def _distances(box: Values, points: Values) -> Values:
    """Return the distance of the box to each of n points, 0 inside the box, (n,)."""
    return np.hypot(*np.maximum(np.maximum(box[:2] - points, points - box[2:]), 0).T)
