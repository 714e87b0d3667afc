"""The graph neighbourhood of one history and one item, computed on the first call.

Shapes: L history events, n explained items.
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
from attnrec.models import Model
from attnrec.models.base import EncodedHistories
from attnrec.models.graph.neighbour_weights import NeighbourWeights
from attnrec.schema import ITEM

NEIGHBOUR = "neighbour"


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The neighbours that the history items and the explained item attend to in the graph.

    Attributes:
        steps: a row per item and neighbour: item_id, neighbour (its item_id), and one column per relation: the item's
            attention weight on the neighbour by this relation, float32, 0 if the relation does not connect the two.
            All weights of an item with neighbours sum to 1, minus the weight that returns to the item itself through
            users or attribute values.
        walk_probabilities: for each event, the probability that a random walk starts there and steps to the explained
            item, (L,); times the number of items it is the event's contribution. None for other models.
        titles: titles of the neighbours.
    """

    steps: pd.DataFrame
    walk_probabilities: NDArray[np.float64] | None = None
    titles: dict[Any, str] = field(default_factory=dict)

    @property
    def relations(self) -> list[str]:
        """The model's names of the relations."""
        return list(self.steps.columns[2:])


LazyNeighbourhood: TypeAlias = Callable[[], Neighbourhood]
"""Computes a neighbourhood on the first call and caches it."""


def lazy_neighbourhoods(
    model: Model, batch: Batch, items: Tensor, *, encoded: EncodedHistories, item_ids: Vocabulary
) -> list[LazyNeighbourhood | None]:
    """Return a function for each explained item that computes its neighbourhood; None for a model without a graph.

    Args:
        model: any.
        batch: one user.
        items: explained item rows, (1, n).
        encoded: the encoded batch.
        item_ids: vocabulary of the model.

    Returns:
        n functions. They raise a ValueError if the model has not observed its graph.
    """
    if not model.has_graph:
        return [None] * items.shape[1]
    length = int(batch.lengths[0])
    rows = torch.cat([batch.items[0, :length], items[0]]).unique()
    steps = cache(partial(_neighbour_steps, model, rows, item_ids))
    probabilities = cache(partial(_walk_probabilities, model, encoded, items, length))
    return [cache(partial(_neighbourhood, steps, probabilities, column)) for column in range(items.shape[1])]


def with_titles(neighbourhood: LazyNeighbourhood, titles: Titles) -> LazyNeighbourhood:
    """Return the same neighbourhood with titles of the neighbours."""

    def compute() -> Neighbourhood:
        computed = neighbourhood()
        return replace(computed, titles=titles_of(computed.steps[NEIGHBOUR].unique(), titles))

    return cache(compute)


def _neighbourhood(
    steps: LazyNeighbourhood, probabilities: Callable[[], NDArray[np.float64] | None], column: int
) -> Neighbourhood:
    values = probabilities()
    return steps() if values is None else replace(steps(), walk_probabilities=values[:, column])


@torch.inference_mode()
def _walk_probabilities(
    model: Model, encoded: EncodedHistories, items: Tensor, length: int
) -> NDArray[np.float64] | None:
    """Return the probability of each event and item, (L, n); None for a model whose scores are no probabilities."""
    probabilities = model.walk_probabilities(encoded, items)
    return None if probabilities is None else probabilities[0, :length].double().cpu().numpy()


def _neighbour_steps(model: Model, rows: Tensor, item_ids: Vocabulary) -> Neighbourhood:
    """Compute `Neighbourhood.steps` of item rows (n,). The relations of an item share its attention equally."""
    by_relation = model.neighbour_weights(rows)
    has_relation = [(neighbours.weights > 0).any(1).float() for neighbours in by_relation.values()]
    n_relations = reduce(add, has_relation, torch.zeros_like(rows)).clamp(min=1)
    tables = [_relation_steps(name, neighbours, rows, n_relations) for name, neighbours in by_relation.items()]
    frame = pd.concat(tables) if tables else pd.DataFrame({ITEM: [], NEIGHBOUR: []}, dtype=np.int64)
    frame = frame[frame[ITEM] != frame[NEIGHBOUR]]
    steps = frame.groupby([ITEM, NEIGHBOUR]).sum().reset_index()
    ids = {name: item_ids.decode(steps[name].to_numpy(np.int64)) for name in (ITEM, NEIGHBOUR)}
    return Neighbourhood(steps.assign(**ids))


def _relation_steps(relation: str, neighbours: NeighbourWeights, rows: Tensor, n_relations: Tensor) -> pd.DataFrame:
    """Return the steps of one relation: item, neighbour, and a column named after the relation with the weights."""
    row, slot = (neighbours.weights > 0).nonzero(as_tuple=True)
    weights = neighbours.weights[row, slot] / n_relations[row]
    columns = {ITEM: rows[row], NEIGHBOUR: neighbours.neighbours[row, slot], relation: weights}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
