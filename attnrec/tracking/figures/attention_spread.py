"""Attention spread: over how many events a model's attention is distributed, by history length and layer."""

from itertools import cycle
from typing import TYPE_CHECKING

import pandas as pd

from attnrec.tracking.figures.style import (
    COLOURS,
    MARKERS,
    REFERENCE,
    legend_above,
    new_figure,
    set_log_ticks,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNIFORM = "uniform attention"


def attention_spread_figure(spread: pd.DataFrame) -> "Figure":
    """Plot the effective number of events and the normalised entropy of attention by history length, a line per layer.

    Args:
        spread: from `attnrec.analysis.attention_spread`; columns layer, length, effective_events, normalised_entropy.
    """
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2, sharex=True)
    longest = max(2.0, float(spread["length"].max()))
    left.plot([1, longest], [1, longest], label=UNIFORM, **REFERENCE)
    right.axhline(1, **REFERENCE)
    styles = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    for (layer, rows), (colour, marker) in zip(spread.groupby("layer", sort=True), styles, strict=False):
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}
        left.plot(rows["length"], rows["effective_events"], label=str(layer), **style)
        right.plot(rows["length"], rows["normalised_entropy"], **style)
    left.set_yscale("log")
    set_log_ticks(left.yaxis)
    right.set_ylim(0, 1.05)
    left.set_ylabel("effective number of events")
    right.set_ylabel("entropy relative to uniform attention")
    for axes, title in ((left, "Effective number of events"), (right, "Normalised entropy")):
        axes.set_xscale("log")
        axes.set_xlabel("history length (events)")
        set_log_ticks(axes.xaxis)
        style_axes(axes, title=title)
    legend_above(figure, *left.get_legend_handles_labels())
    return figure
