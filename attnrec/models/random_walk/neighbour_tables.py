"""Neighbours of each item, on the graph of all users and on graphs without one fold of the users.

In training a user must not be scored on a graph that contains their own events, because its edges would leak the
targets. Users are therefore assigned to folds, and each user is scored on the graph of the other folds (cross-fitting,
as in stacked generalisation: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1).
Shapes: W graphs (the first is of all users), N = n_items + 1 item rows, K neighbours, F edge features.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attention.graph import SortedEdges
from attnrec.attention.graph.edges import counts_to_offsets
from attnrec.dataset import (
    Graph,
    Histories,
    Transitions,
    item_co_occurrence,
    item_transitions,
    strongest_neighbours,
    two_hop_graph,
    user_item_edges,
)
from attnrec.dataset.graph.compressed import compress_keys
from attnrec.dataset.graph.transitions import half_life_decay, latest_time
from attnrec.models.random_walk.config import RandomWalkConfig

ACTIVITY, POPULARITY = 0.75, 0.3
"""Exponents of `dataset.item_co_occurrence`: the best of 27 pairs on Gowalla by validation Recall@20."""

TWO_STEP_PROBABILITY, FIRST_K = 0.7, 30
"""Arguments of `dataset.two_hop_graph`: the best of 4 probabilities on Diginetica; first_k = 30 is as good as 100, with
a third of the work."""


@dataclass(frozen=True, eq=False)
class NeighbourTables:
    """Neighbours of each item on W graphs; graph 0 has all users, graph 1 + f all users except those of fold f.

    Attributes:
        neighbours: item rows in ascending order, padded with N, (W, N, K) int32.
        features: edge features, (W, N, K, F) float16, centred by their means on graph 0, so that the leaky ReLU of
            the attention has its kink inside their range.
        popularity: smoothed share of each item in all events (add-one smoothing), (W, N); 0 in row 0.
        degrees: log(1 + number of users) of each item, (W, N).
        sources: the edges or transitions that graph 0 was built from, as keywords of `dataset.audit_split`.
    """

    neighbours: Tensor
    features: Tensor
    popularity: Tensor
    degrees: Tensor
    sources: dict[str, Any]

    def to(self, device: torch.device) -> "NeighbourTables":
        """Return a copy on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("neighbours", "features", "popularity", "degrees")}
        return replace(self, **moved)

    @property
    def n_rows(self) -> int:
        return self.neighbours.shape[1]

    def edges(self, rows: Tensor) -> SortedEdges:
        """Return the edges whose targets, which attend, are the rows (R,) of all graphs concatenated."""
        neighbours = self.neighbours.flatten(0, 1)[rows]
        real = neighbours < self.n_rows
        counts = real.sum(1)
        features = self.features.flatten(0, 1)[rows][real].float()
        return SortedEdges(
            neighbours[real].long(), torch.repeat_interleave(counts), counts_to_offsets(counts), features
        )


def edge_columns(config: RandomWalkConfig) -> tuple[str, ...]:
    """Return the edge features of a relation in addition to the weight and the degrees of both ends; all as logs."""
    if config.relation == "items":
        return ("count",)
    return ("forward", "back", "count") if config.half_life_days is None else ("forward", "back", "count", "recent")


def fold_of(users: Tensor, n: int) -> Tensor:
    """Return the fold of each user row, 0 to n - 1, from the upper bits of Knuth's multiplicative hash."""
    return users * 2_654_435_761 % 2**32 // 2**16 % n


def build_neighbour_tables(histories: Histories, config: RandomWalkConfig) -> NeighbourTables:
    """Build the graph of all users, and one graph without each fold.

    Args:
        histories: training events only.
        config: settings.
    """
    folds = fold_of(torch.arange(histories.n_users), config.folds).numpy()
    sources, all_users = _graph_arrays(histories, config)
    graphs = [all_users]
    for fold in range(config.folds):
        others = replace(histories, lengths=np.where(folds == fold, 0, histories.lengths))
        graphs.append(_graph_arrays(others, config)[1])
    real = all_users["neighbours"] < len(all_users["neighbours"])
    means = all_users["features"][real].mean(0) if real.any() else np.float32(0)
    for graph in graphs:
        graph["features"] = (graph["features"] - means).astype(np.float16)
    columns = {name: torch.from_numpy(np.stack([graph[name] for graph in graphs])) for name in all_users}
    return NeighbourTables(**columns, sources=sources)


def _graph_arrays(histories: Histories, config: RandomWalkConfig) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the sources of one graph, and its arrays for `NeighbourTables`."""
    edges, k = user_item_edges(histories), min(config.neighbours, histories.n_items)
    users = np.bincount(edges.items, minlength=histories.n_items + 1)
    if config.relation == "items":
        graph = item_co_occurrence(edges, k, activity_exponent=ACTIVITY, popularity_exponent=POPULARITY)
        sources: dict[str, Any] = {"edges": edges, "transitions": None}
    else:
        transitions = item_transitions(
            histories, reach=config.reach or 1, self_loops=True, age_half_life_days=config.half_life_days
        )
        graph, sources = _bidirectional(transitions, users), {"edges": None, "transitions": transitions}
    if config.hops == 2:
        graph = two_hop_graph(
            graph, k, two_step_probability=TWO_STEP_PROBABILITY, first_k=min(k, FIRST_K), self_loops=config.next_item
        )
    table, degrees = strongest_neighbours(graph, k), np.log1p(users).astype(np.float32)
    order = np.where(table.real, table.neighbours, len(table)).argsort(axis=1)
    logs = [_logarithm(x) for x in (table.weights, *(table.columns[name] for name in edge_columns(config)))]
    logs += [degrees[table.neighbours], np.broadcast_to(degrees[:, None], table.real.shape)]
    counts = _popularity(histories, config) + 1  # smoothing: items of one fold only have no events on its graph
    counts[0] = 0
    return sources, {
        "neighbours": np.take_along_axis(np.where(table.real, table.neighbours, len(table)), order, 1).astype(np.int32),
        "features": np.stack([np.take_along_axis(x, order, 1) for x in logs], axis=-1),
        "popularity": counts / counts.sum(),
        "degrees": degrees,
    }


def _popularity(histories: Histories, config: RandomWalkConfig) -> NDArray[np.float32]:
    """Return the number of events of each item, (N,), weighted by age if there is a half-life."""
    if config.half_life_days is None:
        return histories.item_counts().astype(np.float32)
    rows = histories.positions(np.arange(histories.n_users))
    weights = half_life_decay(latest_time(histories) - histories.times[rows], config.half_life_days)
    return np.bincount(histories.items[rows], weights, minlength=histories.n_items + 1).astype(np.float32)


def _bidirectional(transitions: Transitions, users: NDArray[np.int64]) -> Graph:
    """Join both directions: the predecessors and successors of each item; successors and recent pairs weigh more."""
    n_rows, after = transitions.n_sources, transitions.transposed()
    keys = [graph.targets * n_rows + graph.sources for graph in (after, transitions)]
    all_keys: NDArray[np.int64] = np.union1d(keys[0], keys[1])

    def align(direction: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
        aligned = np.zeros(len(all_keys), np.float32)
        aligned[np.searchsorted(all_keys, keys[direction])] = values
        return aligned

    forward, back = align(0, after.weights), align(1, transitions.weights)
    weights = forward + back / 2
    columns = {"forward": forward, "back": back, "count": align(0, after.columns["count"])}
    if "recent" in transitions.columns:
        recent = align(0, after.columns["recent"]) + align(1, transitions.columns["recent"]) / 2
        columns["recent"] = np.asarray(recent, dtype=np.float32)
        weights = weights + recent * (weights.sum() / max(recent.sum(), 1e-30))
    return Graph(
        **compress_keys(all_keys, n_sources=n_rows, n_targets=n_rows),
        weights=np.asarray(weights / users[all_keys % n_rows] ** POPULARITY, dtype=np.float32),
        columns=columns,
    )


def _logarithm(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logarithms, with 0 replaced by half the smallest positive value."""
    smallest = values[values > 0].min(initial=np.inf)
    return np.log(np.maximum(values, smallest / 2 if np.isfinite(smallest) else 1))
