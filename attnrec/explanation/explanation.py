"""One explanation: what each event of a history has to do with the score of one item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.attribution import METHODS
from attnrec.explanation import drawing, graph_drawing, heatmap, html, sentences
from attnrec.explanation.attention import NO_EVENTS, Attention
from attnrec.explanation.neighbourhood import Around
from attnrec.explanation.paths import find_paths
from attnrec.schema import DATETIME, EVENT, ITEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTRIBUTION = "contribution"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """One score, and what each event has to do with it.

    By the method "contribution" it is split: `score = item_bias + frame.contribution.sum()`. What another method says
    of the events is no split of the score; it stands in a column called by the method.

    Attributes:
        item_id: what was scored.
        score: in the model's own units.
        item_bias: the part that does not depend on the user ("popularity").
        frame: one row per history event the model read, oldest first: item_id, datetime (or NaT), event (its type,
            where the log has them), the method's value (contribution: score units), weight (share of attention; NaN
            where the model has none).
        method: a name in `attnrec.attribution.METHODS`.
        titles: what the items are called, by item_id; an item without a title is called by its id.
        model: what scored, in a word.
        ordered: whether the order of the rows means anything.
        heads: contributions by head of the readout, (rows, H), whose sum over H is `frame.contribution`; None where
            there are none.
        attention: shares of attention by layer and head, for `heatmap`.
        graph: makes, when it is called, the graph around the history and the item, for `paths`; None for a model
            without one. It asks the model as it is then.
    """

    item_id: Any
    score: float
    item_bias: float
    frame: pd.DataFrame
    method: str = CONTRIBUTION
    titles: Mapping[Any, str] = field(default_factory=dict)
    model: str = "a model"
    ordered: bool = True
    heads: NDArray[np.float64] | None = None
    attention: Attention = NO_EVENTS
    graph: Around | None = None

    def __repr__(self) -> str:
        return f"Explanation({self.title}, score {self.score:.2f}, {self.because()})"

    @property
    def exact(self) -> bool:
        """Whether the values are how the score was made."""
        return METHODS[self.method].exact

    @property
    def control(self) -> bool:
        """Whether the method looks at no score, and is there to be beaten by the others."""
        return METHODS[self.method].control

    @property
    def source(self) -> str:
        """Where the method comes from: a paper, "this project" or "control"."""
        return METHODS[self.method].source

    @property
    def unit(self) -> str:
        """Of the method's values, in words."""
        return sentences.words_of(self.method).unit

    @property
    def values(self) -> NDArray[np.float64]:
        """The method's value of each event, (rows,)."""
        return self.frame[self.method].to_numpy(float)

    @property
    def title(self) -> str:
        """What the scored item is called."""
        return self.title_of(self.item_id)

    def title_of(self, item_id: Any) -> str:
        """What an item is called: its title, or its id where it has none."""
        return self.titles.get(item_id, str(item_id))

    def because(self, n: int = 3) -> str:
        """The n largest reasons: "because: A +1.32, B +0.87, other events -0.20, popularity +0.10".

        Events of the same item are one reason. A method that is not exact says so instead of adding up: "by
        leave-one-out: A 1.32, B 0.87 (not a split of the score)".
        """
        largest = self._largest([ITEM], n)
        reasons = [(self.title_of(item_id), float(value)) for item_id, value in largest.items()]
        if self.exact:
            return sentences.because(reasons, score=self.score, item_bias=self.item_bias)
        return sentences.named(reasons, method=self.method)

    def sentences(self, n: int = 3, *, now: Any = None) -> list[str]:
        """The n largest reasons as a sentence each: "because you bought A 3 days ago (+1.32)".

        What the user did comes from the event's type (see `sentences.VERBS`), else the user "had" the item. Events of the
        same item and type are one reason, told with the last of them. Without a clock it says how many events before
        the last one of the history, and nothing where the history has no order.

        Args:
            n: reasons at most; only what speaks for the item is one.
            now: from when on to count back, such as "2026-01-31"; default the time of the last event.

        Raises:
            ValueError: when `now` is before the last event.
        """
        largest = self._largest([ITEM, EVENT] if EVENT in self.frame else [ITEM], n)
        return [self._sentence(key, float(value), now) for key, value in largest.items()]

    def plot(self, *, n: int = 20, heads: bool = False, ax: "Axes | None" = None) -> "Axes":
        """Bars of the n latest events in time order, the latest on top; for contributions the item's own part, too.

        Args:
            n: events shown; older ones are summed in one bar, where values of the method may be added.
            heads: stack each event's contribution by the head of the readout that made it.
            ax: where to draw; default a new figure.

        Raises:
            ValueError: for heads of a model whose readout has one or none, or of another method than contributions.
        """
        if ax is None:
            return drawing.draw_panels([self], n=n, heads=heads, shown=True)[0]
        drawing.draw_bars(self, drawing.bars_of(self, n=n, heads=heads), ax=ax)
        return ax

    def figure(self, *, n: int = 20, heads: bool = False) -> "Figure":
        """The picture of `plot` as a figure of its own, for saving."""
        return drawing.figure_of(drawing.draw_panels([self], n=n, heads=heads, shown=False)[0])

    def heatmap(self, *, n: int = 20, ax: "Axes | None" = None) -> "Axes":
        """Where attention went when the history was read: a row per layer and head, a column per event in time order.

        It says where the model looked, not what made the score: for that there are contributions.

        Args:
            n: events shown; the share of older ones is summed in one column. What went to no event of the history
                (see `Attention`) stands in a column "elsewhere".
            ax: where to draw; default a new figure.

        Raises:
            ValueError: for a model without attention that is shares, or an empty history.
        """
        cells = heatmap.cells_of(self, n=n)
        ax = heatmap.new_heatmap_axes(cells) if ax is None else ax
        heatmap.draw_heatmap(self, cells, ax=ax)
        return ax

    def paths(self, n: int = 10) -> pd.DataFrame:
        """The n strongest paths from the history's items to this one over the graph that the model attends over.

        Unless `exact` is True they are a view: they show where attention flows, not how the score was made (the exact
        split is by event, in `frame`). See `explanation.paths` for what start, step and product are.

        Args:
            n: paths at most; those with a product of 0 are none.

        Returns:
            One row per path, strongest first, of equal ones the older item's: item_id (of the history), through
            (the neighbour's item_id that both listen to; None where the two are neighbours of each other), length
            (steps; 0 where a walk ends where it starts), attending_item ("history": its item attending_item to this one;
            "recommended": this one attending_item to it; "both": to a third), relation and other_relation (of the
            history's item's step and of this one's, as the model calls them; None where there is no such step),
            start, step, recommended_step (NaN where there is none), product, exact
            (True where the model walks: products times the number of items sum to the contributions).

        Raises:
            ValueError: for n below 1, a model without a graph or one that was loaded and has it no more, or a model
                whose readout has no shares of attention.
        """
        return find_paths(self, n=n)

    def draw_graph(self, *, n: int = 10, ax: "Axes | None" = None) -> "Axes":
        """The n strongest `paths`: the history's items on the left, what they share with this one in the middle.

        Arrows lead from who attending_item to whom; they are as wide as the products of the paths that use them, and the
        history's items as large as their shares of attention. Below it says whether it is exact.

        Args:
            n: paths shown.
            ax: where to draw; default a new figure.

        Raises:
            ValueError: as `paths`.
        """
        graph = graph_drawing.graph_of(self, n=n)
        ax = graph_drawing.new_graph_axes(graph, shown=True) if ax is None else ax
        graph_drawing.draw_graph(self, graph, ax=ax)
        return ax

    def graph_figure(self, *, n: int = 10) -> "Figure":
        """The picture of `draw_graph` as a figure of its own, for saving."""
        graph = graph_drawing.graph_of(self, n=n)
        ax = graph_drawing.new_graph_axes(graph, shown=False)
        graph_drawing.draw_graph(self, graph, ax=ax)
        return drawing.figure_of(ax)

    def _repr_html_(self) -> str:
        return html.html_of(self)

    def _largest(self, keys: Sequence[str], n: int) -> pd.Series:
        """The n largest values above 0 by the items (and types) of events, largest first; ties: the older one."""
        grouped = self.frame.groupby(list(keys), sort=False)[self.method]
        joined = grouped.sum() if sentences.words_of(self.method).adds else grouped.max()
        return joined[joined > 0].sort_values(ascending=False, kind="stable").head(n)

    def _sentence(self, key: Any, value: float, now: Any) -> str:
        item_id, event = key if isinstance(key, tuple) else (key, None)
        mine = self.frame[ITEM] == item_id
        if event is not None:
            mine &= self.frame[EVENT] == event
        when = self._when(int(np.flatnonzero(mine)[-1]), now)
        done = sentences.deed(self.title_of(item_id), event=event, times=int(mine.sum()), when=when)
        if self.exact:
            return f"because {done} ({value:+.2f})"
        return f"{sentences.by_method(self.method)}: {done} ({value:.2f})"

    def _when(self, row: int, now: Any) -> str:
        if not self.ordered:
            return ""
        times = self.frame.get(DATETIME)
        if times is None or times.isna().any():
            return sentences.before(len(self.frame) - 1 - row)
        return sentences.ago((sentences.moment(now, last=times.iloc[-1]) - times.iloc[row]).total_seconds())
