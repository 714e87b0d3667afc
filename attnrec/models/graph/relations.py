"""What joins items: the users who had them, what was done after what, and values of attributes.

Shapes: N = n_items + 1 item rows (row 0 is padding), E edges.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnrec.dataset import (
    Edges,
    Graph,
    Histories,
    Transitions,
    item_co_occurrence,
    item_transitions,
    user_item_edges,
)
from attnrec.models.graph.settings import ItemGraphSettings, Relation, attribute_name

POOL = 5  # where neighbours are drawn, those of `items` are drawn from the strongest POOL x K


@dataclass(frozen=True, eq=False)
class ItemRelations:
    """The relations of one catalogue.

    Attributes:
        graphs: name (see `ItemGraphSettings.names`) -> item -> item; or item -> node and node -> item.
        edges, transitions: what they were made of; None where nothing was.
    """

    graphs: dict[str, tuple[Graph, ...]]
    edges: Edges | None = None
    transitions: Transitions | None = None


def item_relations(
    histories: Histories,
    relations: tuple[Relation, ...],
    settings: ItemGraphSettings,
    *,
    attributes: Mapping[str, Graph],
) -> ItemRelations:
    """Make the relations that a graph of items has.

    Args:
        histories: training events only.
        relations: made of these events.
        settings: of the graph.
        attributes: column -> item -> value, see `dataset.attribute_edges`.

    Raises:
        ValueError: for transitions of an unordered log, or with a half life of a log without times.
    """
    edges, transitions = None, None
    graphs: dict[str, tuple[Graph, ...]] = {}
    if "bipartite" in relations or "items" in relations:
        edges = user_item_edges(histories)
        if "bipartite" in relations:
            graphs["by_bipartite"] = (edges.by_user(), edges.by_item())
        if "items" in relations:
            assert settings.neighbours is not None, "checked with the settings"
            graphs["by_items"] = (item_co_occurrence(edges, settings.neighbours * (POOL if settings.sample else 1)),)
    if "transitions" in relations:
        if not histories.ordered:
            raise ValueError(
                "transitions need an order of events, got an unordered set; take items by common users instead"
            )
        made = {name: getattr(settings, name) for name in ("directed", "reach", "half_life_days")}
        transitions = item_transitions(histories, **made)
        graphs |= {name: (graph,) for name, graph in transition_hops(transitions).items()}
    has_history = histories.item_counts() > 0
    graphs |= {attribute_name(column): attribute_hops(graph, has_history) for column, graph in attributes.items()}
    return ItemRelations(graphs, edges, transitions)


def transition_hops(transitions: Transitions) -> dict[str, Graph]:
    """What came before an item, and what came after it; one graph of both where they are undirected."""
    if not transitions.directed:
        return {"by_transitions": transitions}
    return {"by_earlier": transitions, "by_later": transitions.transposed()}


def attribute_hops(graph: Graph, known: NDArray[np.bool_]) -> tuple[Graph, Graph]:
    """Item -> value from the items that have history, and value -> item to all items that have the value.

    Args:
        graph: item -> value, each pair once.
        known: whether an item has history, (N,).
    """
    speaking = known[graph.sources]
    heard = np.zeros(graph.n_targets, dtype=bool)
    heard[graph.targets[speaking]] = True
    return _only(graph, speaking), _only(graph, heard[graph.targets]).transposed()


def _only(graph: Graph, chosen: NDArray[np.bool_]) -> Graph:
    offsets = np.concatenate([[0], np.cumsum(chosen)])[graph.offsets]
    columns = {name: values[chosen] for name, values in graph.columns.items()}
    sources, weights = graph.sources[chosen], graph.weights[chosen]
    return replace(graph, sources=sources, offsets=offsets, weights=weights, columns=columns)
