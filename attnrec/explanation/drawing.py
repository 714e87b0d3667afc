"""Bars of explanations: one per event, stacked by head, or beside each other by item.

Shapes: R bars, H stacked parts of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnrec.explanation import sentences
from attnrec.explanation.labels import NO_HISTORY, dates_of, drawn, written
from attnrec.schema import ITEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnrec.explanation.explanation import Explanation

POSITIVE, NEGATIVE, OWN, QUIET = "#0072B2", "#D55E00", "#8c8c8c", "#666666"
HEADS = (POSITIVE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", NEGATIVE, "#F0E442", "#000000")
"""Told apart with any colour vision (Okabe & Ito 2008, jfly.uni-koeln.de/color)."""

COLUMNS = 3  # panels beside each other
LEAST = 3  # bars that there is room for
GAP = 0.6  # between the history and the item's own part, in bars
WIDTHS = (0.0, 7.2, 9.6, 13.0)  # of a figure by its number of columns, inches
NAME, TITLE, NARROW = 34, 40, 26  # characters


@dataclass(frozen=True, eq=False)
class Bars:
    """What is drawn, from the bottom up: the item's own part where the method is exact, then the events, oldest first.

    Attributes:
        names: (R,).
        dates: (R,), empty texts where there is none.
        values: (R, H); the item's own part is in the first column.
        places: heights in the picture, (R,); the item's own part is below 0.
    """

    names: list[str]
    dates: list[str]
    values: NDArray[np.float64]
    places: NDArray[np.float64]


def bars_of(explanation: "Explanation", *, n: int, heads: bool) -> Bars:
    """The n latest events, and what was before them as one bar where values of the method may be added.

    Raises:
        ValueError: for n below 1, and for heads where there are none.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more events, got {n}; the default is 20")
    values = _by_head(explanation) if heads else explanation.values[:, None]
    n_older = max(len(values) - n, 0)
    names = [drawn(explanation.title_of(item_id), width=NAME) for item_id in explanation.frame[ITEM].iloc[n_older:]]
    dates, shown = dates_of(explanation.frame)[n_older:], values[n_older:]
    if n_older and sentences.words_of(explanation.method).adds:
        names, dates = [f"{n_older} older event{'s' * (n_older > 1)}", *names], ["", *dates]
        shown = np.concatenate([values[:n_older].sum(0, keepdims=True), shown])
    places = np.arange(len(names), dtype=float)
    if explanation.exact:
        names, dates, places = ["popularity (item bias)", *names], ["", *dates], np.append(-1 - GAP, places)
        own = np.zeros((1, values.shape[1]))
        own[0, 0] = explanation.item_bias
        shown = np.concatenate([own, shown])
    return Bars(names, dates, shown, places)


def new_figure(width: float, height: float, *, shown: bool) -> "Figure":
    """A figure in inches; one of pyplot's where a notebook is to show it, else one that is only saved."""
    if shown:
        from matplotlib import pyplot

        return pyplot.figure(figsize=(width, height), layout="constrained")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def figure_of(ax: "Axes") -> "Figure":
    """The whole figure that these axes are in."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes are drawn in a figure"
    return figure


def draw_panels(explanations: "Sequence[Explanation]", *, n: int, heads: bool, shown: bool) -> "list[Axes]":
    """Bars of each item in a panel of its own in a new figure; panels share events and scale."""
    bars = [bars_of(each, n=n, heads=heads) for each in explanations]
    n_columns = min(COLUMNS, len(bars))
    n_rows = -(-len(bars) // n_columns)
    width, height = WIDTHS[n_columns], 1.25 + 0.27 * (max(LEAST, len(bars[0].names)) + GAP)
    figure = new_figure(width, n_rows * height, shown=shown)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for place, (explanation, mine) in enumerate(zip(explanations, bars, strict=True)):
        last = place % n_columns == n_columns - 1 or place == len(bars) - 1
        draw_bars(explanation, mine, ax=panels[place], dates=last, legend=place == 0, narrow=n_columns > 1)
        panels[place].tick_params(labelleft=place % n_columns == 0, labelbottom=True)
    for unused in panels[len(bars) :]:
        unused.remove()
    return panels[: len(bars)]


def draw_bars(
    explanation: "Explanation",
    bars: Bars,
    *,
    ax: "Axes",
    dates: bool = True,
    legend: bool = True,
    narrow: bool = False,
) -> None:
    """One panel.

    Args:
        explanation: whose.
        bars: of it.
        ax: where to draw.
        dates: whether they stand on the right, where there are any.
        legend: whether to say which colour is which head, where there are several.
        narrow: whether there is little room for the title.
    """
    _stack(ax, bars, exact=explanation.exact)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(bars.places, bars.names, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.margins(x=0.16)
    lowest, highest = bars.places.min(initial=0.0), bars.places.max(initial=0.0)
    ax.set_ylim(lowest - 0.7, max(lowest + LEAST - 1, highest) + 0.7)
    ax.locator_params(axis="x", nbins=4 if narrow else 6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if dates and any(bars.dates):
        right = ax.secondary_yaxis("right")
        right.set_yticks(bars.places, bars.dates, fontsize=7, color=QUIET)
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
    why, n_heads = "why " if explanation.exact else "", bars.values.shape[1]
    title = drawn(explanation.title, width=NARROW if narrow else TITLE)
    ax.set_title(f"{why}{title}: score {explanation.score:z.2f}", fontsize=10, loc="left", pad=20 if n_heads > 1 else 6)
    if legend and n_heads > 1:
        _explain_heads(ax, n_heads)
    ax.set_xlabel(_measure(explanation, bars), fontsize=8)


def _stack(ax: "Axes", bars: Bars, *, exact: bool) -> None:
    """Parts above 0 to the right of it and parts below 0 to the left, and their sum as a number."""
    own, colours_of_heads = bars.places < 0, colours(bars.values.shape[1])
    right, left = np.zeros(len(bars.names)), np.zeros(len(bars.names))
    for head, values in enumerate(bars.values.T):
        signs = np.where(values >= 0, POSITIVE, NEGATIVE)
        hues = np.where(own, OWN, signs if len(colours_of_heads) == 1 else colours_of_heads[head])
        ax.barh(bars.places, values, left=np.where(values >= 0, right, left), color=hues.tolist())
        right, left = right + values.clip(min=0), left + values.clip(max=0)
    totals = bars.values.sum(1)
    number = written(totals.tolist(), exact=exact)
    for place, total, end, start in zip(bars.places, totals, right, left, strict=True):
        at, side, shift = (end, "left", 3) if total >= 0 else (start, "right", -3)
        ax.annotate(
            number(total),
            (at, place),
            xytext=(shift, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=7,
            color=QUIET,
        )


def colours(n_heads: int) -> list[str]:
    """One for each head."""
    if n_heads <= len(HEADS):
        return list(HEADS[:n_heads])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, n_heads))]


def _explain_heads(ax: "Axes", n_heads: int) -> None:
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


def _measure(explanation: "Explanation", bars: Bars) -> str:
    """What the bars measure."""
    if explanation.frame.empty:
        return NO_HISTORY
    if explanation.exact:
        return "contribution to the score; the latest event on top"
    of_method = sentences.words_of(explanation.method)
    what = "a control, which looks at no score" if explanation.control else "not a split of the score"
    n_hidden = len(explanation.frame) - len(bars.names) if not of_method.adds else 0
    older = f"; {n_hidden} older events not shown" if n_hidden else ""
    return f"{of_method.name} ({of_method.unit}), {what}; the latest event on top{older}"


def _by_head(explanation: "Explanation") -> NDArray[np.float64]:
    """Values by head, (rows, H), where there are several heads."""
    if explanation.method != "contribution":
        raise ValueError(
            f"heads split contributions, got method = {explanation.method!r}; explain with method = 'contribution'"
        )
    n_heads = 0 if explanation.heads is None else explanation.heads.shape[1]
    if explanation.heads is None or n_heads < 2:
        came = f"{explanation.model} with {n_heads or 'none'}" if len(explanation.frame) else "a history without events"
        raise ValueError(f"heads=True needs a readout with several heads, got {came}; leave heads=True out")
    return explanation.heads
