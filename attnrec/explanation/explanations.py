"""Explanations of several items for one history."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

import pandas as pd

from attnrec.explanation import drawing, html
from attnrec.explanation.explanation import Explanation
from attnrec.explanation.neighbourhood import with_titles
from attnrec.explanation.titles import Titles, titles_of
from attnrec.schema import ITEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPLAINED_ITEM = "explained_item_id"


class Explanations(Sequence[Explanation]):
    """One explanation per item, for the same history and method, in the requested order.

    Args:
        explanations: at least one.
    """

    def __init__(self, explanations: Iterable[Explanation]) -> None:
        self._explanations = tuple(explanations)

    def __len__(self) -> int:
        return len(self._explanations)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> "Explanations": ...
    def __getitem__(self, index: int | slice) -> "Explanation | Explanations":
        return Explanations(self._explanations[index]) if isinstance(index, slice) else self._explanations[index]

    def __repr__(self) -> str:
        return f"Explanations({', '.join(f'{each.title} {each.score:.2f}' for each in self)})"

    @property
    def frame(self) -> pd.DataFrame:
        """The concatenated frames of all items, with the explained item in a first column `explained_item_id`."""
        frames = []
        for each in self:
            frame = each.frame.copy()
            frame.insert(0, EXPLAINED_ITEM, pd.Series([each.item_id] * len(frame), index=frame.index))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def with_titles(self, titles: Titles) -> "Explanations":
        """Return the same explanations with these titles; an item without a title is shown by its id.

        Args:
            titles: item id -> title, or a frame with the columns item_id and title.

        Raises:
            ValueError: if a frame lacks one of the two columns.
        """
        ids = [*pd.unique(self[0].frame[ITEM]), *(each.item_id for each in self)]
        title_by_id = titles_of(ids, titles)
        return Explanations(
            replace(
                each,
                titles=title_by_id,
                neighbourhood=None if each.neighbourhood is None else with_titles(each.neighbourhood, titles),
            )
            for each in self
        )

    def plot(self, *, n: int = 20, heads: bool = False) -> "list[Axes]":
        """Plot the bars of `Explanation.plot`, one panel per item on a shared scale.

        Raises:
            ValueError: as `Explanation.plot`.
        """
        return drawing.draw_panels(self, n=n, heads=heads, use_pyplot=True)

    def figure(self, *, n: int = 20, heads: bool = False) -> "Figure":
        """Return the plot as a figure for saving, which pyplot does not show."""
        return drawing.figure_of(drawing.draw_panels(self, n=n, heads=heads, use_pyplot=False)[0])

    def _repr_html_(self) -> str:
        return html.html_of_several(self)
