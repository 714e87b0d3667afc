"""Why this item: the exact split of one score over one user's history, as a frame, a sentence and a picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from attnrec.dataset import Histories, last_events
from attnrec.models import Model
from attnrec.schema import DATETIME, ITEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Explanation:
    """One score, split: `score = item_bias + frame.contribution.sum()`.

    Attributes:
        item_id: what was scored.
        score: in the model's own units.
        item_bias: the part that does not depend on the user ("everyone likes it").
        frame: one row per history event the model read, oldest first: item_id, datetime (or NaT), contribution
            (score units), weight (share of attention; NaN where the model has none).
    """

    item_id: Any
    score: float
    item_bias: float
    frame: pd.DataFrame

    def because(self, n: int = 3) -> str:
        """The n largest reasons: "because of: A +1.32, B +0.87, the rest -0.20, everyone likes it +0.10"."""
        joined = self.frame.groupby(ITEM, sort=False)["contribution"].sum()
        best = joined[joined > 0].sort_values(ascending=False, kind="stable").head(n)
        reasons = list(zip(best.index.astype(str), best.to_numpy(float), strict=True))
        return because(reasons, score=self.score, item_bias=self.item_bias)

    def plot(self, *, n: int = 20, ax: "Axes | None" = None) -> "Axes":
        """Bars of the n latest events' contributions in time order, and the item's own part.

        Args:
            n: events shown; the older ones are summed in one bar.
            ax: where to draw; default a new figure.
        """
        ax = ax or self.figure(n=n, drawn=False).gca()
        older, latest = self.frame.iloc[:-n], self.frame.iloc[-n:]
        bars = [("everyone (item bias)", self.item_bias)]
        if len(older):
            bars.append((f"{len(older)} older events", float(older["contribution"].sum())))
        bars += zip(latest[ITEM].astype(str), latest["contribution"].to_numpy(float), strict=True)
        names, values = zip(*bars, strict=True)
        ax.barh(range(len(values)), values, color=["#2a6f97" if value >= 0 else "#c1553b" for value in values])
        ax.set_yticks(range(len(values)), names, fontsize=8)
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set_xlabel("contribution to the score")
        ax.set_title(f"why {self.item_id}: score {self.score:.2f}, latest event on top", fontsize=10)
        return ax

    def figure(self, *, n: int = 20, drawn: bool = True) -> "Figure":
        """The picture of `plot` as a figure of its own, for saving."""
        from matplotlib import pyplot

        height = 0.9 + 0.28 * (min(n, len(self.frame)) + 2)
        figure, ax = pyplot.subplots(figsize=(7, height), layout="constrained")
        if drawn:
            self.plot(n=n, ax=ax)
        return figure


def because(reasons: list[tuple[str, float]], *, score: float, item_bias: float) -> str:
    """A sentence from (item, contribution) pairs whose numbers add up to the score.

    Args:
        reasons: the largest ones.
        score: of the item.
        item_bias: what everyone's liking added; what is left is "the rest" of the history.
    """
    parts = [f"{item} {added:+.2f}" for item, added in reasons]
    rest = score - item_bias - sum(added for _, added in reasons)
    if abs(rest) >= 0.005:
        parts.append(f"the rest {rest:+.2f}")
    return "because of: " + ", ".join([*parts, f"everyone likes it {item_bias:+.2f}"])


def explain(model: Model, histories: Histories, *, user: int, item: int) -> Explanation:
    """Split the score of one item for one user.

    Args:
        model: with exact reasons.
        histories: in the model's item rows.
        user: user row.
        item: item row.

    Raises:
        ReasonsError: for a model whose scores are not sums over the history.
    """
    model.eval()
    batch = last_events(histories, np.array([user]), max_length=model.max_length, older=model.older_events)
    asked = torch.tensor([[item]])
    with torch.inference_mode():
        reading = model.read(batch.to(model.rankable.device))
        contributions = reading.contributions(asked.to(model.rankable.device))[0, :, 0].cpu()
        weights = None if reading.weights is None else reading.weights[0].cpu()
    length = int(batch.lengths[0])
    bias = float(model.item_bias().detach()[item])
    frame = pd.DataFrame(
        {
            ITEM: histories.item_ids.decode(batch.items[0, :length].numpy()),
            DATETIME: histories.moments(batch.times[0, :length].numpy()),
            "contribution": contributions[:length].double().numpy(),
            "weight": np.full(length, np.nan) if weights is None else weights[:length].double().numpy(),
        }
    )
    item_id = histories.item_ids.decode(np.array([item]))[0]
    return Explanation(item_id, bias + float(frame["contribution"].sum()), bias, frame)
