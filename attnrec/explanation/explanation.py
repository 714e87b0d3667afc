"""The explanation of one score, with its sentences, plots and graph paths."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from attnrec.explanation import drawing, graph_drawing, heatmap, html, sentences
from attnrec.explanation.paths import find_paths
from attnrec.explanation.score_attribution import ScoreAttribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Explanation(ScoreAttribution):
    """Why one item has its score: the value of each history event, as a frame, sentences and plots.

    The attributes are those of `ScoreAttribution`.
    """

    def __repr__(self) -> str:
        return f"Explanation({self.title}, score {self.score:.2f}, {self.because()})"

    def because(self, n: int = 3) -> str:
        """Return the n largest reasons: "because: A +1.32, B +0.87, other events -0.20, popularity +0.10".

        Events of the same item are one reason. The line of a method that is not exact says that its values do not
        sum to the score: "leave-one-out: A 1.32, B 0.87 (does not sum to the score)".
        """
        return sentences.reasons_text(self, n=n)

    def sentences(self, n: int = 3, *, now: Any = None) -> list[str]:
        """Return the n largest reasons as a sentence each: "because you bought A 3 days ago (+1.32)".

        The verb comes from the event type (see `sentences.VERBS`). Events of the same item and type are one reason,
        with the time of the last of them. Without timestamps the sentence has the number of events between this one
        and the last one of the history, and nothing if the history has no order.

        Args:
            n: maximum number of reasons; only positive values are reasons.
            now: reference time of "3 days ago", such as "2026-01-31"; default the time of the last event.

        Raises:
            ValueError: if `now` is before the last event.
        """
        return sentences.reason_sentences(self, n=n, now=now)

    def plot(self, *, n: int = 20, heads: bool = False, ax: "Axes | None" = None) -> "Axes":
        """Plot a bar for each of the n latest events, latest on top; for contributions also the item bias.

        Args:
            n: number of events; older ones are summed in one bar if the method is additive.
            heads: stack the contribution of each event by head of the readout.
            ax: target axes; default a new figure.

        Raises:
            ValueError: for heads of a readout with one head or none, or of a method other than contribution.
        """
        if ax is None:
            return drawing.draw_panels([self], n=n, heads=heads, use_pyplot=True)[0]
        drawing.draw_bars(self, drawing.bars_of(self, n=n, heads=heads), ax=ax)
        return ax

    def figure(self, *, n: int = 20, heads: bool = False) -> "Figure":
        """Return the plot as a figure for saving, which pyplot does not show."""
        return drawing.figure_of(drawing.draw_panels([self], n=n, heads=heads, use_pyplot=False)[0])

    def heatmap(self, *, n: int = 20, ax: "Axes | None" = None) -> "Axes":
        """Plot attention weights: a row per layer and head, a column per event in time order.

        Attention weights show what the model attends to, not how the score is computed; contributions show that.

        Args:
            n: number of events; weights of older ones are summed in one column. Weights on positions that are not
                events of the history (see `AttentionMaps`) are in the column "other positions".
            ax: target axes; default a new figure.

        Raises:
            ValueError: for a model without attention weights that sum to 1, or an empty history.
        """
        cells = heatmap.cells_of(self, n=n)
        ax = heatmap.new_heatmap_axes(cells) if ax is None else ax
        heatmap.draw_heatmap(self, cells, ax=ax)
        return ax

    def paths(self, n: int = 10) -> pd.DataFrame:
        """Return the n strongest paths from the history items to this item over the graph the model attends over.

        Unless `exact` is True, paths only illustrate where attention flows; the exact split of the score is by event,
        in `frame`. The module `explanation.paths` defines start, step and product.

        Args:
            n: maximum number of paths; paths with a product of 0 are left out.

        Returns:
            One row per path, strongest first, ties by the older history item: item_id (of the history), through
            (item_id of the neighbour both attend to; None if the two items are neighbours of each other), length
            (number of steps; 0 if a random walk ends where it starts), attending_item ("history": the history item
            attends to this one; "recommended": this one attends to it; "both": to a third item), relation and
            recommended_relation (relation of the step from the history item and from this one; None if there is no
            such step), start, step, recommended_step (NaN if there is none), product, exact (True for a random walk:
            products times the number of items are the contributions).

        Raises:
            ValueError: for n below 1, a model without a graph, a loaded model that has not observed its graph again,
                or a model whose readout has no attention weights.
        """
        return find_paths(self, n=n)

    def draw_graph(self, *, n: int = 10, ax: "Axes | None" = None) -> "Axes":
        """Draw the n strongest `paths`: history items on the left, common neighbours in the middle, this item right.

        Arrows point from the attending item to its neighbour. Their width is the product of the paths that use them;
        the size of a history item is its attention weight. The caption says whether the paths are exact.

        Args:
            n: number of paths.
            ax: target axes; default a new figure.

        Raises:
            ValueError: as `paths`.
        """
        graph = graph_drawing.graph_of(self, n=n)
        ax = graph_drawing.new_graph_axes(graph, use_pyplot=True) if ax is None else ax
        graph_drawing.draw_graph(self, graph, ax=ax)
        return ax

    def graph_figure(self, *, n: int = 10) -> "Figure":
        """Return the drawing of `draw_graph` as a figure for saving, which pyplot does not show."""
        graph = graph_drawing.graph_of(self, n=n)
        ax = graph_drawing.new_graph_axes(graph, use_pyplot=False)
        graph_drawing.draw_graph(self, graph, ax=ax)
        return drawing.figure_of(ax)

    def _repr_html_(self) -> str:
        return html.html_of(self)
