"""The small graph around one history and one item, made when somebody asks for it.

Shapes: L events of the history, n items asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Batch, Vocabulary
from attnrec.explanation.titles import Titles, titles_of
from attnrec.models import RandomWalk, Model
from attnrec.models.base import EncodedHistories
from attnrec.models.graph.neighbour_shares import NeighbourShares
from attnrec.schema import ITEM

NEIGHBOUR = "neighbour"


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """To which items those of a history, and the explained one, listen in the graph.

    Attributes:
        steps: a row per item and neighbour: item_id, neighbour (its item_id), and a column for each relation: the share
            of the item's attention that goes that way, float32, 0 where the relation does not join the two. All shares
            of an item that has a neighbour sum to 1, less what comes back to the item itself by way of users or values.
        arriving: the chance to start a walk at each event and to step from it to the explained item, (L,), which times
            the number of items is the event's contribution; None for models whose scores are not such chances.
        titles: of the neighbours.
    """

    steps: pd.DataFrame
    arriving: NDArray[np.float64] | None = None
    titles: dict[Any, str] = field(default_factory=dict)

    @property
    def relations(self) -> list[str]:
        """Their names, as the model has them."""
        return list(self.steps.columns[2:])


Around: TypeAlias = Callable[[], Neighbourhood]
"""Makes a neighbourhood at the first call and remembers it."""


def around_items(
    model: Model, batch: Batch, items: Tensor, *, encoded: EncodedHistories, item_ids: Vocabulary
) -> list[Around | None]:
    """What makes the neighbourhood of each explained item; None for a model without a graph.

    Args:
        model: any.
        batch: one user.
        items: explained item rows, (1, n).
        encoded: of the batch.
        item_ids: of the model.

    Returns:
        n of them. Called on a model that has not observed its graph, they raise a ValueError.
    """
    if not model.has_graph:
        return [None] * items.shape[1]
    length = int(batch.lengths[0])
    rows = torch.cat([batch.items[0, :length], items[0]]).unique()
    steps = cache(partial(_steps, model, rows, item_ids))
    arriving = cache(partial(_arriving, model, encoded, items, length)) if isinstance(model, RandomWalk) else None
    return [cache(partial(_made, steps, arriving, place)) for place in range(items.shape[1])]


def titled(around: Around, titles: Titles) -> Around:
    """The same with the neighbours' titles."""

    def make() -> Neighbourhood:
        made = around()
        return replace(made, titles=titles_of(made.steps[NEIGHBOUR].unique(), titles))

    return cache(make)


def _made(steps: Around, arriving: Callable[[], NDArray[np.float64]] | None, place: int) -> Neighbourhood:
    return steps() if arriving is None else replace(steps(), arriving=arriving()[:, place])


def _arriving(model: Model, encoded: EncodedHistories, items: Tensor, length: int) -> NDArray[np.float64]:
    """Of each event and item, (L, n)."""
    with torch.inference_mode():
        return encoded.contributions(items)[0, :length].double().cpu().numpy() / model.n_items


def _steps(model: Model, rows: Tensor, item_ids: Vocabulary) -> Neighbourhood:
    """See `Neighbourhood.steps`: of item rows (n,). The relations of an item have equal parts of its attention."""
    found = model.neighbour_shares(rows)
    n_relations = reduce(add, [(of.shares > 0).any(1).float() for of in found.values()], torch.zeros_like(rows))
    tables = [_listed(name, of, rows, n_relations.clamp(min=1)) for name, of in found.items()]
    frame = pd.concat(tables) if tables else pd.DataFrame({ITEM: [], NEIGHBOUR: []}, dtype=np.int64)
    frame = frame[frame[ITEM] != frame[NEIGHBOUR]]
    steps = frame.groupby([ITEM, NEIGHBOUR]).sum().reset_index()
    ids = {name: item_ids.decode(steps[name].to_numpy(np.int64)) for name in (ITEM, NEIGHBOUR)}
    return Neighbourhood(steps.assign(**ids))


def _listed(relation: str, of: NeighbourShares, rows: Tensor, n_relations: Tensor) -> pd.DataFrame:
    """One relation's part of each step: item, neighbour, and a column called by the relation."""
    at, place = (of.shares > 0).nonzero(as_tuple=True)
    parts = of.shares[at, place] / n_relations[at]
    columns = {ITEM: rows[at], NEIGHBOUR: of.neighbours[at, place], relation: parts}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
