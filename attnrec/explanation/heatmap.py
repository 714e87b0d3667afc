"""Heatmap of the attention weights over one history.

Shapes: R rows (layers and heads), K columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnrec.explanation.drawing import figure_of, new_figure
from attnrec.explanation.labels import older_events, plot_label
from attnrec.explanation.score_attribution import ScoreAttribution
from attnrec.schema import ITEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME_WIDTH = 24  # characters
MIN_OTHER_WEIGHT = 0.005  # a smaller weight on other positions gets no column
MAX_NUMBERED_CELLS = 300  # with more cells there is no room for numbers
MIN_NUMBERED_WEIGHT = 0.05  # smaller weights are shown by colour only


@dataclass(frozen=True, eq=False)
class Cells:
    """The data of the heatmap.

    Attributes:
        weights: (R, K).
        rows: names of layers and heads, (R,).
        columns: names, (K,): "other positions" and the sum of older events, if there are any, then the events in time
            order.
        n_sums: number of columns that are sums, not single events.
    """

    weights: NDArray[np.float64]
    rows: tuple[str, ...]
    columns: list[str]
    n_sums: int


def cells_of(attribution: ScoreAttribution, *, n: int) -> Cells:
    """Return the weights of the n latest events.

    Raises:
        ValueError: for n below 1, or a model without attention maps.
    """
    maps = attribution.attention_maps
    if n < 1:
        raise ValueError(f"n must be 1 or more events, got {n}; the default is 20")
    if not maps.names:
        raise ValueError(f"a heatmap needs attention weights that sum to 1, got {maps.missing_reason}; use plot()")
    names = [plot_label(attribution.title_of(item_id), width=NAME_WIDTH) for item_id in attribution.frame[ITEM]]
    n_older = max(len(names) - n, 0)
    sums: dict[str, NDArray[np.float64]] = {}
    other_positions = (1 - maps.weights.sum(1)).clip(0, 1)
    if other_positions.max() >= MIN_OTHER_WEIGHT:
        sums["other positions"] = other_positions
    if n_older:
        sums[older_events(n_older)] = maps.weights[:, :n_older].sum(1)
    weights = np.column_stack([*sums.values(), maps.weights[:, n_older:]])
    return Cells(weights, maps.names, [*sums, *names[n_older:]], len(sums))


def new_heatmap_axes(cells: Cells) -> "Axes":
    """Return axes of a new figure sized for these cells."""
    width, height = 2.6 + 0.42 * len(cells.columns), 2.2 + 0.3 * len(cells.rows)
    return new_figure(max(width, 5.5), height, use_pyplot=True).add_subplot()


def draw_heatmap(attribution: ScoreAttribution, cells: Cells, *, ax: "Axes") -> None:
    """Draw the heatmap, see `Explanation.heatmap`."""
    largest = max(float(cells.weights[:, cells.n_sums :].max()), 0.01)
    is_sum = np.arange(len(cells.columns)) < cells.n_sums  # on a scale of their own, because sums are larger
    ax.imshow(np.where(is_sum, cells.weights, np.nan), aspect="auto", cmap="Greys", vmin=0, vmax=2)
    image = ax.imshow(np.where(is_sum, np.nan, cells.weights), aspect="auto", cmap="Blues", vmin=0, vmax=largest)
    ax.set_xticks(range(len(cells.columns)), cells.columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_yticks(range(len(cells.rows)), cells.rows, fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if cells.n_sums:
        ax.axvline(cells.n_sums - 0.5, color="white", linewidth=4)
    layers = [name.split(" head ")[0] for name in cells.rows]
    for row in range(1, len(layers)):
        if layers[row] != layers[row - 1]:
            ax.axhline(row - 0.5, color="white", linewidth=4)
    if cells.weights.size <= MAX_NUMBERED_CELLS:
        for (row, column), weight in np.ndenumerate(cells.weights):
            if weight >= MIN_NUMBERED_WEIGHT:
                colour = "white" if weight > 0.6 * largest and not is_sum[column] else "black"
                ax.text(column, row, f"{100 * weight:.0f}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure_of(ax).colorbar(image, ax=ax, pad=0.02, fraction=0.05)
    bar.set_label("attention weight", fontsize=8)
    bar.ax.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
    bar.ax.yaxis.set_major_formatter(lambda weight, _: f"{100 * weight:.0f} %")
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    ax.set_title(f"attention of {attribution.model_description} over this history, per cent", fontsize=10, loc="left")
