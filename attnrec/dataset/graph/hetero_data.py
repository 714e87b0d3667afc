"""Conversion between attnrec graphs and torch_geometric.data.HeteroData.

| node type | rows | num_nodes |
|---|---|---|
| "user" | user rows, from 0 | n_users |
| "item" | item rows, from 1; row 0 is padding and has no edges | n_items + 1 |
| "attribute_COLUMN" | category codes of the column, from 0 | number of categories |

| edge type | from | edge_attr columns |
|---|---|---|
| ("user", "interacts", "item") | `Edges` | count, share_TYPE per event type; `time`: Unix seconds of the last event |
| ("item", "followed_by", "item") | `Transitions` | weight, count, gap_seconds, recent, where present |
| ("item", "co_occurs", "item") | `item_co_occurrence` | weight, count |
| ("item", "has", "attribute_COLUMN") | `attribute_edges` | weight |

edge_index is (2, E) int64, edge_attr (E, F) float32 with raw values, time (E,) int64. `data.attnrec` is a dict with the
edge_attr column names by edge type and further settings; `from_hetero_data` uses it. Rows equal those of models and
batches, so that embedding tables can be shared. torch_geometric is imported when a function is called.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnrec.dataset.graph.compressed import Columns, Graph, check_rows, graph_from_edges
from attnrec.dataset.graph.edges import Edges
from attnrec.dataset.graph.transitions import Transitions

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

EdgeType = tuple[str, str, str]

INTERACTS = ("user", "interacts", "item")
FOLLOWED_BY = ("item", "followed_by", "item")
CO_OCCURS = ("item", "co_occurs", "item")
TRANSITION_SETTINGS = ("reach", "directed", "self_loops", "session_gap_hours")


@dataclass(frozen=True, eq=False)
class HeteroGraphs:
    """The graphs of a HeteroData object; None or empty if there are no edges of the type.

    Attributes:
        edges: user-item edges.
        transitions: item transitions.
        co_occurrence: item co-occurrence graph.
        attributes: column name -> graph item -> attribute value.
    """

    edges: Edges | None = None
    transitions: Transitions | None = None
    co_occurrence: Graph | None = None
    attributes: dict[str, Graph] = field(default_factory=dict)


def to_hetero_data(
    edges: Edges | None = None,
    *,
    transitions: Transitions | None = None,
    co_occurrence: Graph | None = None,
    attributes: Mapping[str, Graph] | None = None,
) -> "HeteroData":
    """Convert graphs over one catalogue to a HeteroData object on the CPU.

    The object has one direction per edge type; `torch_geometric.transforms.ToUndirected` adds the reverse ones.

    Args:
        edges: from `user_item_edges`.
        transitions: from `item_transitions`.
        co_occurrence: from `item_co_occurrence`.
        attributes: from `attribute_edges`.

    Raises:
        ValueError: if there is no graph, or the graphs have different numbers of items.
    """
    item_graphs = {FOLLOWED_BY: transitions, CO_OCCURS: co_occurrence}
    item_graphs |= {("item", "has", _attribute_type(name)): graph for name, graph in (attributes or {}).items()}
    graphs = {edge_type: graph for edge_type, graph in item_graphs.items() if graph is not None}
    n_item_rows = _n_item_rows(edges, graphs)
    data = _empty_data()
    data["item"].num_nodes = n_item_rows
    columns = {edge_type: ["weight", *graph.columns] for edge_type, graph in graphs.items()}
    metadata: dict[str, Any] = {"edge_attr": columns, "latest": {}}
    if edges is not None:
        _add_interactions(data, edges)
        event_names = [] if edges.event_shares is None else list(edges.event_names)
        columns[INTERACTS] = ["count", *(f"share_{name}" for name in event_names)]
        metadata["event_names"] = event_names
    if transitions is not None:
        metadata["transitions"] = {name: getattr(transitions, name) for name in TRANSITION_SETTINGS}
    for edge_type, graph in graphs.items():
        if edge_type[2] != "item":
            data[edge_type[2]].num_nodes = graph.n_targets
        data[edge_type].edge_index = _edge_index(graph.sources, graph.targets)
        data[edge_type].edge_attr = _stack([graph.weights, *graph.columns.values()])
        metadata["latest"][edge_type] = graph.latest
    data.attnrec = metadata
    return data


def from_hetero_data(data: "HeteroData") -> HeteroGraphs:
    """Convert a HeteroData object to graphs; the inverse of `to_hetero_data`.

    Objects without `data.attnrec` are accepted if nodes and edge types follow the table of this module. Edges may be in
    any order and on any device. Without edge_attr, counts and weights are 1. Other edge types are ignored.

    Raises:
        ValueError: if a row does not exist, an item row is 0 (padding), a user-item pair occurs more than once, or the
            number of edge_attr columns differs from the names in `data.attnrec`.
    """
    metadata = data.attnrec if "attnrec" in data else {}
    n_items = int(data["item"].num_nodes) - 1
    graphs = {
        edge_type: _graph(data, edge_type, metadata)
        for edge_type in data.edge_types
        if edge_type in (FOLLOWED_BY, CO_OCCURS) or (edge_type[:2] == ("item", "has") and _column_of(edge_type[2]))
    }
    transitions = graphs.get(FOLLOWED_BY)
    return HeteroGraphs(
        edges=_edges(data, n_items, metadata) if INTERACTS in data.edge_types else None,
        transitions=None if transitions is None else _transitions(transitions, metadata.get("transitions", {})),
        co_occurrence=graphs.get(CO_OCCURS),
        attributes={
            _column_of(edge_type[2]): graph for edge_type, graph in graphs.items() if edge_type[:2] == ("item", "has")
        },
    )


def _empty_data() -> "HeteroData":
    with warnings.catch_warnings():  # torch_geometric uses deprecated parts of torch.jit and typing
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.data import HeteroData
    return HeteroData()


def _attribute_type(column: str) -> str:
    return f"attribute_{column}"


def _column_of(node_type: str) -> str:
    """Return the column of an attribute node type, "" for other node types."""
    return node_type.removeprefix("attribute_") if node_type.startswith("attribute_") else ""


def _n_item_rows(edges: Edges | None, graphs: Mapping[EdgeType, Graph]) -> int:
    n_rows = {edge_type[1]: graph.n_sources for edge_type, graph in graphs.items()}
    n_rows |= {} if edges is None else {INTERACTS[1]: edges.n_items + 1}
    if len(set(n_rows.values())) != 1:
        raise ValueError(
            f"to_hetero_data needs one or more graphs with the same number of item rows, got {n_rows}; "
            "build all of them from the same histories"
        )
    return next(iter(n_rows.values()))


def _add_interactions(data: "HeteroData", edges: Edges) -> None:
    data["user"].num_nodes = edges.n_users
    store = data[INTERACTS]
    store.edge_index = _edge_index(edges.users, edges.items)
    shares = [] if edges.event_shares is None else list(edges.event_shares.T)
    store.edge_attr = _stack([edges.counts, *shares])
    if edges.last_times is not None:
        store.time = torch.from_numpy(np.array(edges.last_times, dtype=np.int64))


def _edge_index(sources: NDArray[np.integer[Any]], targets: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.stack([sources, targets]).astype(np.int64))


def _stack(columns: list[NDArray[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _edges(data: "HeteroData", n_items: int, metadata: Mapping[str, Any]) -> Edges:
    store, n_users = data[INTERACTS], int(data["user"].num_nodes)
    users, items = store.edge_index.cpu().numpy()
    check_rows(users, n_rows=n_users, name=f"users of {INTERACTS}")
    check_rows(items, n_rows=n_items + 1, name=f"items of {INTERACTS}", first=1)
    order = np.lexsort((items, users))
    users, items = users[order], items[order]
    duplicates = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
    if duplicates.any():
        raise ValueError(
            f"user-item pairs must be unique, got {int(duplicates.sum())} duplicates (first: user row "
            f"{users[:-1][duplicates][0]}, item row {items[:-1][duplicates][0]}); aggregate them into one edge"
        )
    counts, *shares = (column[order] for column in _edge_columns(data, INTERACTS, metadata).values())
    return Edges(
        users=users,
        items=items,
        counts=counts,
        n_users=n_users,
        n_items=n_items,
        last_times=store.time.cpu().numpy()[order] if "time" in store else None,
        event_shares=np.stack(shares, axis=1) if shares else None,
        event_names=tuple(metadata.get("event_names", ())) if shares else (),
    )


def _graph(data: "HeteroData", edge_type: EdgeType, metadata: Mapping[str, Any]) -> Graph:
    sources, targets = data[edge_type].edge_index.cpu().numpy()
    n_sources, n_targets = (int(data[node_type].num_nodes) for node_type in (edge_type[0], edge_type[2]))
    check_rows(sources, n_rows=n_sources, name=f"sources of {edge_type}", first=1)
    check_rows(targets, n_rows=n_targets, name=f"targets of {edge_type}", first=int(edge_type[2] == "item"))
    columns = _edge_columns(data, edge_type, metadata)
    graph = graph_from_edges(
        sources,
        targets,
        n_sources=n_sources,
        n_targets=n_targets,
        weights=columns.pop("weight"),
        columns=columns,
        node_types=(edge_type[0], edge_type[2]),
    )
    return replace(graph, latest=metadata.get("latest", {}).get(edge_type))


def _edge_columns(data: "HeteroData", edge_type: EdgeType, metadata: Mapping[str, Any]) -> Columns:
    """Return the columns of edge_attr by name; without edge_attr, one column of ones."""
    store, default = data[edge_type], ["count" if edge_type == INTERACTS else "weight"]
    if "edge_attr" not in store:
        return {default[0]: np.ones(store.edge_index.shape[1], dtype=np.float32)}
    names = metadata.get("edge_attr", {}).get(edge_type, default)
    edge_attr = store.edge_attr.detach().cpu().float().numpy()
    edge_attr = edge_attr[:, None] if edge_attr.ndim == 1 else edge_attr
    if edge_attr.shape[1] != len(names):
        raise ValueError(
            f"edge_attr of {edge_type} must have the columns {names}, got {edge_attr.shape[1]} columns; "
            "set the names in data.attnrec['edge_attr']"
        )
    return dict(zip(names, edge_attr.T.copy(), strict=True))


def _transitions(graph: Graph, settings: Mapping[str, Any]) -> Transitions:
    return Transitions(
        graph.sources,
        graph.offsets,
        graph.weights,
        n_sources=graph.n_sources,
        columns={"count": np.ones(len(graph), np.float32)} | graph.columns,
        latest=graph.latest,
        **settings,
    )
