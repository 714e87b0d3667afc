"""The score of one item and the value that an attribution method assigns to each event of the history.

The modules that print, plot and draw explanations take this class. `Explanation` adds their functions as methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.attribution import METHODS
from attnrec.explanation.attention_maps import NO_EVENTS, AttentionMaps
from attnrec.explanation.method_texts import method_text
from attnrec.explanation.neighbourhood import LazyNeighbourhood

CONTRIBUTION = "contribution"


@dataclass(frozen=True, eq=False, repr=False)
class ScoreAttribution:
    """The score of one item, attributed to the events of one history.

    For the method "contribution" the values sum to the score: `score = item_bias + frame.contribution.sum()`. The
    values of other methods do not; they are in a column with the name of the method.

    Attributes:
        item_id: id of the scored item.
        score: score of the item, in the units of the model.
        item_bias: part of the score that does not depend on the user ("popularity").
        frame: one row per history event the model read, oldest first: item_id, datetime (or NaT), event (its type,
            if the log has types), the value of the method (contribution: score units), weight (attention weight; NaN
            for a model without attention).
        method: a name in `attnrec.attribution.METHODS`.
        titles: item titles by item_id; an item without a title is shown by its id.
        model_description: the model that computed the score.
        ordered: whether the order of the rows is meaningful.
        head_contributions: contributions by head of the readout, (rows, H), which sum over H to `frame.contribution`;
            None if there are none.
        attention_maps: attention weights by layer and head, for `heatmap`.
        neighbourhood: computes the graph neighbourhood of the history and the item on the first call, for `paths`,
            with the model's weights at that time; None for a model without a graph.
    """

    item_id: Any
    score: float
    item_bias: float
    frame: pd.DataFrame
    method: str = CONTRIBUTION
    titles: Mapping[Any, str] = field(default_factory=dict)
    model_description: str = "a model"
    ordered: bool = True
    head_contributions: NDArray[np.float64] | None = None
    attention_maps: AttentionMaps = NO_EVENTS
    neighbourhood: LazyNeighbourhood | None = None

    @property
    def exact(self) -> bool:
        """Whether the values and the item bias sum to the score."""
        return METHODS[self.method].exact

    @property
    def control(self) -> bool:
        """Whether the method ignores the score and only serves as a baseline for other methods."""
        return METHODS[self.method].control

    @property
    def source(self) -> str:
        """The origin of the method: a paper, "this project" or "control"."""
        return METHODS[self.method].source

    @property
    def unit(self) -> str:
        """The unit of the values."""
        return method_text(self.method).unit

    @property
    def values(self) -> NDArray[np.float64]:
        """The value of each event, (rows,)."""
        return self.frame[self.method].to_numpy(float)

    @property
    def title(self) -> str:
        """The title of the scored item, or its id if it has none."""
        return self.title_of(self.item_id)

    def title_of(self, item_id: Any) -> str:
        """Return the title of an item, or its id if it has none."""
        return self.titles.get(item_id, str(item_id))
