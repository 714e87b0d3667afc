"""Attention spread: over how many events a model's attention is distributed, by history length and layer."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention_spread_figure(spread: pd.DataFrame) -> "Figure":
    """Plot the effective number of events and the normalised entropy of attention by history length, a line per layer.

    Args:
        spread: from `attnrec.analysis.attention_spread`; reads layer, length, effective_events and normalised_entropy.
    """
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    longest = max(2.0, float(spread["length"].max()))
    left.plot([1, longest], [1, longest], color="#bbbbbb", linestyle="--", label="all events alike")
    for layer, rows in spread.groupby("layer", sort=True):
        left.plot(rows["length"], rows["effective_events"], marker="o", markersize=4, label=layer)
        right.plot(rows["length"], rows["normalised_entropy"], marker="o", markersize=4)
    left.set_yscale("log")
    left.set_ylabel("effective number of events")
    right.set_ylim(0, 1.05)
    right.set_ylabel("entropy, as a part of that of even attention")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("events in the history")
    figure.legend(loc="outside upper center", ncols=6)
    return figure
