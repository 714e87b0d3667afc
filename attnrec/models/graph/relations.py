"""Graphs of the relations between items: common users, transitions, and common attribute values.

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

POOL = 5  # with `sample`, the neighbours of the relation `items` are sampled from the POOL x K strongest


@dataclass(frozen=True, eq=False)
class ItemRelations:
    """Graphs of all relations of a catalogue.

    Attributes:
        graphs: name (see `ItemGraphSettings.names`) -> item -> item; or item -> node and node -> item.
        edges, transitions: the data that the graphs were built from; None if no graph needs them.
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
    """Build the graphs of the relations.

    Args:
        histories: training events only.
        relations: those that are built from these events.
        settings: settings of the graph.
        attributes: column -> item -> value, see `dataset.attribute_edges`.

    Raises:
        ValueError: for transitions of an unordered log, or a half-life with a log without times.
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
            raise ValueError("transitions need ordered events, got an unordered log; use the relation 'items' instead")
        arguments = {name: getattr(settings, name) for name in ("directed", "reach", "half_life_days")}
        transitions = item_transitions(histories, **arguments)
        graphs |= {name: (graph,) for name, graph in transition_hops(transitions).items()}
    has_history = histories.item_counts() > 0
    graphs |= {attribute_name(column): attribute_hops(graph, has_history) for column, graph in attributes.items()}
    return ItemRelations(graphs, edges, transitions)


def transition_hops(transitions: Transitions) -> dict[str, Graph]:
    """Return the graphs from earlier to later items and back; one graph if transitions are undirected."""
    if not transitions.directed:
        return {"by_transitions": transitions}
    return {"by_earlier": transitions, "by_later": transitions.transposed()}


def attribute_hops(graph: Graph, has_history: NDArray[np.bool_]) -> tuple[Graph, Graph]:
    """Return item -> value for items with training events, and value -> item for all items with such a value.

    Args:
        graph: item -> value, each pair once.
        has_history: whether an item has training events, (N,).
    """
    is_source = has_history[graph.sources]
    has_source = np.zeros(graph.n_targets, dtype=bool)
    has_source[graph.targets[is_source]] = True
    return _select_edges(graph, is_source), _select_edges(graph, has_source[graph.targets]).transposed()


def _select_edges(graph: Graph, chosen: NDArray[np.bool_]) -> Graph:
    offsets = np.concatenate([[0], np.cumsum(chosen)])[graph.offsets]
    columns = {name: values[chosen] for name, values in graph.columns.items()}
    sources, weights = graph.sources[chosen], graph.weights[chosen]
    return replace(graph, sources=sources, offsets=offsets, weights=weights, columns=columns)
