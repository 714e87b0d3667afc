"""Bar charts of explanations: one bar per event, optionally stacked by head, one panel per item.

Shapes: R bars, H stacked parts of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnrec.explanation.labels import NO_HISTORY, event_dates, number_format, older_events, plot_label
from attnrec.explanation.method_texts import method_text
from attnrec.explanation.score_attribution import CONTRIBUTION, ScoreAttribution
from attnrec.schema import ITEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSITIVE, NEGATIVE, NEUTRAL, MUTED = "#0072B2", "#D55E00", "#8c8c8c", "#666666"
HEAD_COLOURS = (POSITIVE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", NEGATIVE, "#F0E442", "#000000")
"""Colour-blind safe palette (Okabe & Ito 2008, jfly.uni-koeln.de/color)."""

MAX_COLUMNS = 3  # panels side by side
MIN_BARS = 3  # the height of a panel fits at least these
GAP = 0.6  # between the events and the item bias, in bars
WIDTHS = (0.0, 7.2, 9.6, 13.0)  # of a figure by number of columns, inches
NAME_WIDTH, TITLE_WIDTH, NARROW_WIDTH = 34, 40, 26  # characters


@dataclass(frozen=True, eq=False)
class Bars:
    """The data of one panel, from bottom to top: the item bias if the method is exact, then the events, oldest first.

    Attributes:
        names: (R,).
        dates: (R,), "" if there is none.
        values: (R, H); the item bias is in the first column.
        positions: y coordinates, (R,); the item bias is below 0.
    """

    names: list[str]
    dates: list[str]
    values: NDArray[np.float64]
    positions: NDArray[np.float64]


def bars_of(attribution: ScoreAttribution, *, n: int, heads: bool) -> Bars:
    """Return the n latest events, and the older ones as one bar if the method is additive.

    Raises:
        ValueError: for n below 1, or heads of a readout with one head or none.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more events, got {n}; the default is 20")
    values = _head_values(attribution) if heads else attribution.values[:, None]
    n_older = max(len(values) - n, 0)
    names = [
        plot_label(attribution.title_of(item_id), width=NAME_WIDTH)
        for item_id in attribution.frame[ITEM].iloc[n_older:]
    ]
    dates, shown = event_dates(attribution.frame)[n_older:], values[n_older:]
    if n_older and method_text(attribution.method).additive:
        names, dates = [older_events(n_older), *names], ["", *dates]
        shown = np.concatenate([values[:n_older].sum(0, keepdims=True), shown])
    positions = np.arange(len(names), dtype=float)
    if attribution.exact:
        names, dates = ["popularity (item bias)", *names], ["", *dates]
        positions = np.append(-1 - GAP, positions)
        item_bias = np.zeros((1, values.shape[1]))
        item_bias[0, 0] = attribution.item_bias
        shown = np.concatenate([item_bias, shown])
    return Bars(names, dates, shown, positions)


def new_figure(width: float, height: float, *, use_pyplot: bool) -> "Figure":
    """Return a figure of this size in inches, registered with pyplot (shown by a notebook) or for saving only."""
    if use_pyplot:
        from matplotlib import pyplot

        return pyplot.figure(figsize=(width, height), layout="constrained")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def figure_of(ax: "Axes") -> "Figure":
    """Return the figure that contains these axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    return figure


def draw_panels(attributions: Sequence[ScoreAttribution], *, n: int, heads: bool, use_pyplot: bool) -> "list[Axes]":
    """Draw one panel per item in a new figure; the panels share both axes."""
    bars = [bars_of(each, n=n, heads=heads) for each in attributions]
    n_columns = min(MAX_COLUMNS, len(bars))
    n_rows = -(-len(bars) // n_columns)
    width, height = WIDTHS[n_columns], 1.25 + 0.27 * (max(MIN_BARS, len(bars[0].names)) + GAP)
    figure = new_figure(width, n_rows * height, use_pyplot=use_pyplot)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for index, (attribution, panel_bars) in enumerate(zip(attributions, bars, strict=True)):
        last = index % n_columns == n_columns - 1 or index == len(bars) - 1
        draw_bars(attribution, panel_bars, ax=panels[index], dates=last, legend=index == 0, narrow=n_columns > 1)
        panels[index].tick_params(labelleft=index % n_columns == 0, labelbottom=True)
    for unused in panels[len(bars) :]:
        unused.remove()
    return panels[: len(bars)]


def draw_bars(
    attribution: ScoreAttribution,
    bars: Bars,
    *,
    ax: "Axes",
    dates: bool = True,
    legend: bool = True,
    narrow: bool = False,
) -> None:
    """Draw one panel.

    Args:
        attribution: the explanation to draw.
        bars: its bars.
        ax: target axes.
        dates: whether to show dates on the right, if there are any.
        legend: whether to show the legend of head colours, if there are several heads.
        narrow: whether the title must be short.
    """
    _stack(ax, bars, exact=attribution.exact)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(bars.positions, bars.names, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.margins(x=0.16)
    lowest, highest = bars.positions.min(initial=0.0), bars.positions.max(initial=0.0)
    ax.set_ylim(lowest - 0.7, max(lowest + MIN_BARS - 1, highest) + 0.7)
    ax.locator_params(axis="x", nbins=4 if narrow else 6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if dates and any(bars.dates):
        right = ax.secondary_yaxis("right")
        right.set_yticks(bars.positions, bars.dates, fontsize=7, color=MUTED)
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
    why, n_heads = "why " if attribution.exact else "", bars.values.shape[1]
    title = plot_label(attribution.title, width=NARROW_WIDTH if narrow else TITLE_WIDTH)
    ax.set_title(f"{why}{title}: score {attribution.score:z.2f}", fontsize=10, loc="left", pad=20 if n_heads > 1 else 6)
    if legend and n_heads > 1:
        _add_head_legend(ax, n_heads)
    ax.set_xlabel(_axis_label(attribution, bars), fontsize=8)


def _stack(ax: "Axes", bars: Bars, *, exact: bool) -> None:
    """Stack positive parts to the right of 0 and negative parts to the left, and write their sum."""
    is_item_bias, head_colours = bars.positions < 0, colours(bars.values.shape[1])
    right, left = np.zeros(len(bars.names)), np.zeros(len(bars.names))
    for head, values in enumerate(bars.values.T):
        signs = np.where(values >= 0, POSITIVE, NEGATIVE)
        bar_colours = np.where(is_item_bias, NEUTRAL, signs if len(head_colours) == 1 else head_colours[head])
        ax.barh(bars.positions, values, left=np.where(values >= 0, right, left), color=bar_colours.tolist())
        right, left = right + values.clip(min=0), left + values.clip(max=0)
    totals = bars.values.sum(1)
    number = number_format(totals.tolist(), exact=exact)
    for position, total, end, start in zip(bars.positions, totals, right, left, strict=True):
        x, align, shift = (end, "left", 3) if total >= 0 else (start, "right", -3)
        ax.annotate(
            number(total),
            (x, position),
            xytext=(shift, 0),
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=7,
            color=MUTED,
        )


def colours(n: int) -> list[str]:
    """Return n distinct colours."""
    if n <= len(HEAD_COLOURS):
        return list(HEAD_COLOURS[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, n))]


def _add_head_legend(ax: "Axes", n_heads: int) -> None:
    from matplotlib.patches import Patch

    ax.legend(
        handles=[Patch(color=colour, label=f"head {head}") for head, colour in enumerate(colours(n_heads), start=1)],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        borderpad=0,
        ncols=8,
        fontsize=7,
        frameon=False,
        handlelength=1,
        columnspacing=1,
    )


def _axis_label(attribution: ScoreAttribution, bars: Bars) -> str:
    """Return what the bars measure."""
    if attribution.frame.empty:
        return NO_HISTORY
    if attribution.exact:
        return "contribution to the score (latest event on top)"
    text = method_text(attribution.method)
    note = "control: does not use the score" if attribution.control else "does not sum to the score"
    n_hidden = len(attribution.frame) - len(bars.names) if not text.additive else 0
    hidden = f"; {older_events(n_hidden)} not shown" if n_hidden else ""
    return f"{text.label} ({text.unit}), {note} (latest event on top{hidden})"


def _head_values(attribution: ScoreAttribution) -> NDArray[np.float64]:
    """Return the contributions by head, (rows, H)."""
    if attribution.method != CONTRIBUTION:
        raise ValueError(
            f"heads split contributions, got method = {attribution.method!r}; explain with method = 'contribution'"
        )
    n_heads = 0 if attribution.head_contributions is None else attribution.head_contributions.shape[1]
    if attribution.head_contributions is None or n_heads < 2:
        got = f"{attribution.model_description} with {n_heads or 'none'}"
        got = got if len(attribution.frame) else "a history without events"
        raise ValueError(f"heads=True needs a readout with several heads, got {got}; leave heads=True out")
    return attribution.head_contributions
