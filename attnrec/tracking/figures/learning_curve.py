"""Learning curve: training loss and validation metric by epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(epochs: Sequence[dict[str, float]], *, metric: str) -> "Figure":
    """Plot the training loss and the validation metric of every epoch; the best epoch is labelled.

    Args:
        epochs: one dict per epoch with "train/loss" (nats) and, where it was evaluated, f"val/{metric}".
        metric: name of the validation metric, such as ndcg_at_10.
    """
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(7, 4), layout="constrained")
    numbers = range(1, len(epochs) + 1)
    left.plot(numbers, [epoch["train/loss"] for epoch in epochs], color="#888888", label="training loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss (nats)")
    values = [epoch.get(f"val/{metric}", np.nan) for epoch in epochs]
    right = left.twinx()
    right.plot(numbers, values, color="#2a6f97", marker="o", markersize=3, label=f"validation {metric}")
    right.set_ylabel(f"validation {metric}")
    if np.isfinite(values).any():
        best = int(np.nanargmax(values))
        right.annotate(f"{values[best]:.4f}", (best + 1, values[best]), xytext=(0, 6), textcoords="offset points")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
