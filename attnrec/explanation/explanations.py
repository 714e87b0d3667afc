"""Explanations of several items by one history."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

import pandas as pd

from attnrec.explanation import drawing, html
from attnrec.explanation.explanation import Explanation
from attnrec.explanation.neighbourhood import titled
from attnrec.explanation.titles import Titles, titles_of
from attnrec.schema import ITEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPLAINED = "explained"


class Explanations(Sequence[Explanation]):
    """One explanation per item, of the same history by the same method, in the order asked for.

    Args:
        explanations: at least one.
    """

    def __init__(self, explanations: Iterable[Explanation]) -> None:
        self._each = tuple(explanations)

    def __len__(self) -> int:
        return len(self._each)

    @overload
    def __getitem__(self, place: int) -> Explanation: ...
    @overload
    def __getitem__(self, place: slice) -> "Explanations": ...
    def __getitem__(self, place: int | slice) -> "Explanation | Explanations":
        return Explanations(self._each[place]) if isinstance(place, slice) else self._each[place]

    def __repr__(self) -> str:
        return f"Explanations({', '.join(f'{each.title} {each.score:.2f}' for each in self)})"

    @property
    def frame(self) -> pd.DataFrame:
        """The frames of all items below each other, and which item is explained in a first column, `explained`."""
        frames = []
        for each in self:
            frame = each.frame.copy()
            frame.insert(0, EXPLAINED, pd.Series([each.item_id] * len(frame), index=frame.index))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def with_titles(self, titles: Titles) -> "Explanations":
        """The same with items called by these titles; items that are not among them are called by their ids.

        Args:
            titles: item id -> title, or a frame of item_id and title.

        Raises:
            ValueError: for a frame without the two columns.
        """
        ids = [*pd.unique(self[0].frame[ITEM]), *(each.item_id for each in self)]
        found = titles_of(ids, titles)
        return Explanations(
            replace(each, titles=found, graph=None if each.graph is None else titled(each.graph, titles))
            for each in self
        )

    def plot(self, *, n: int = 20, heads: bool = False) -> "list[Axes]":
        """`Explanation.plot`, one panel per item beside each other, on one scale.

        Raises:
            ValueError: as `Explanation.plot`.
        """
        return drawing.draw_panels(self, n=n, heads=heads, shown=True)

    def figure(self, *, n: int = 20, heads: bool = False) -> "Figure":
        """The picture of `plot` as a figure of its own, for saving."""
        return drawing.figure_of(drawing.draw_panels(self, n=n, heads=heads, shown=False)[0])

    def _repr_html_(self) -> str:
        return html.html_of_several(self)
