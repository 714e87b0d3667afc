"""Learning curve: training loss and validation metric by epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attnrec.evaluation.metrics import metric_label
from attnrec.tracking.figures.style import BLUE, GREY, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(epochs: Sequence[dict[str, float]], *, metric: str) -> "Figure":
    """Plot the validation metric and the training loss of every epoch in two panels; the best epoch is marked.

    Args:
        epochs: one dict per epoch with "train/loss" (nats) and, if the epoch was validated, f"val/{metric}".
        metric: key of the validation metric, such as ndcg_at_10.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7, 5)
    upper, lower = figure.subplots(2, 1, sharex=True)
    numbers = np.arange(1, len(epochs) + 1)
    values = np.array([epoch.get(f"val/{metric}", np.nan) for epoch in epochs])
    validated = np.isfinite(values)
    upper.plot(numbers[validated], values[validated], color=BLUE, marker="o", markersize=4)
    lower.plot(numbers, [epoch["train/loss"] for epoch in epochs], color=GREY, marker="o", markersize=4)
    style_axes(upper, title="Validation")
    style_axes(lower, title="Training")
    upper.set_ylabel(metric_label(metric))
    lower.set_ylabel("loss (nats per target)")
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    if validated.any():
        best = int(np.nanargmax(values))
        for axes in (upper, lower):
            axes.axvline(best + 1, color=BLUE, linewidth=1, linestyle=":")
        upper.set_title(f"best {values[best]:.4f} in epoch {best + 1}", loc="right", fontsize=9, color=BLUE)
    return figure
