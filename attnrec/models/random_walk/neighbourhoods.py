"""Where a walk can go: the neighbours of each item, on the graph of all users and on graphs without some of them.

A user who is asked in training about their own events must not find them on the graph: it would say that these items
belong together. So users are dealt into folds, and each is asked on a graph of the other folds (cross-fitting, as in
stacked generalisation: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1).
Shapes: W graphs (the first is of all users), N = n_items + 1 item rows, K neighbours, F edge features.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attention.graph import Segments
from attnrec.attention.graph.forms import offsets_of
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
from attnrec.dataset.graph.compressed import compressed
from attnrec.dataset.graph.transitions import half_life_decay, latest_time
from attnrec.models.random_walk.config import RandomWalkConfig

ACTIVITY, POPULARITY = 0.75, 0.3
"""Of the edges that are kept, see `dataset.item_co_occurrence`: the best of 27 pairs on Gowalla, validation Recall@20."""

SECOND, FIRST_K = 0.7, 30
"""Of two hops, see `dataset.two_hop_graph`: the best of 4 shares on Diginetica; as good as 100, with a third of the work."""


@dataclass(frozen=True, eq=False)
class Places:
    """Neighbours on W graphs.

    Attributes:
        neighbours: of each item, ascending, and N where there are fewer than K, (W, N, K) int32.
        features: of the edges there, (W, N, K, F) float16, less their means on the first graph, so that the leaky ReLU
            of attention bends amid them.
        popularity: share of each item in all events, of which it has one more than it had, (W, N); 0 in row 0.
        degrees: logarithm of 1 + users of each item, (W, N).
        made_of: what the first graph was made of, by the keywords of `dataset.audit_split`.
    """

    neighbours: Tensor
    features: Tensor
    popularity: Tensor
    degrees: Tensor
    made_of: dict[str, Any]

    def to(self, device: torch.device) -> "Places":
        """The same tables on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("neighbours", "features", "popularity", "degrees")}
        return replace(self, **moved)

    @property
    def n_rows(self) -> int:
        return self.neighbours.shape[1]

    def segments(self, rows: Tensor) -> Segments:
        """The edges out of some rows of all graphs laid end to end, (R,): the rows are targets, which attend."""
        neighbours = self.neighbours.flatten(0, 1)[rows]
        real = neighbours < self.n_rows
        counts = real.sum(1)
        edges = self.features.flatten(0, 1)[rows][real].float()
        return Segments(neighbours[real].long(), torch.repeat_interleave(counts), offsets_of(counts), edges)


def columns_of(config: RandomWalkConfig) -> tuple[str, ...]:
    """What is known of an edge beside its weight and the degrees of its ends; attention reads logarithms."""
    if config.relation == "items":
        return ("count",)
    return ("forward", "back", "count") if config.half_life_days is None else ("forward", "back", "count", "recent")


def fold_of(users: Tensor, n: int) -> Tensor:
    """The fold of each user row, 0 to n - 1, by the upper bits of Knuth's multiplicative hash."""
    return users * 2_654_435_761 % 2**32 // 2**16 % n


def build_neighbour_tables(histories: Histories, config: RandomWalkConfig) -> Places:
    """Neighbours on the graph of all users, and on one without each fold.

    Args:
        histories: training events only.
        config: settings.
    """
    folds = fold_of(torch.arange(histories.n_users), config.folds).numpy()
    made_of, everyone = _world(histories, config)
    worlds = [everyone]
    for fold in range(config.folds):
        others = replace(histories, lengths=np.where(folds == fold, 0, histories.lengths))
        worlds.append(_world(others, config)[1])
    real = everyone["neighbours"] < len(everyone["neighbours"])
    means = everyone["features"][real].mean(0) if real.any() else np.float32(0)
    for world in worlds:
        world["features"] = (world["features"] - means).astype(np.float16)
    columns = {name: torch.from_numpy(np.stack([world[name] for world in worlds])) for name in everyone}
    return Places(**columns, made_of=made_of)


def _world(histories: Histories, config: RandomWalkConfig) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a graph was made of, and its part of the arrays of `Places`."""
    edges, k = user_item_edges(histories), min(config.neighbours, histories.n_items)
    users = np.bincount(edges.items, minlength=histories.n_items + 1)
    if config.relation == "items":
        graph = item_co_occurrence(edges, k, activity=ACTIVITY, popularity=POPULARITY)
        made_of: dict[str, Any] = {"edges": edges, "transitions": None}
    else:
        transitions = item_transitions(
            histories, reach=config.reach or 1, self_loops=True, age_half_life_days=config.half_life_days
        )
        graph, made_of = _both_ways(transitions, users), {"edges": None, "transitions": transitions}
    if config.hops == 2:
        graph = two_hop_graph(graph, k, two_step_probability=SECOND, first_k=min(k, FIRST_K), self_loops=config.next_item)
    table, degrees = strongest_neighbours(graph, k), np.log1p(users).astype(np.float32)
    order = np.where(table.real, table.neighbours, len(table)).argsort(axis=1)
    logs = [_logarithm(x) for x in (table.weights, *(table.columns[name] for name in columns_of(config)))]
    logs += [degrees[table.neighbours], np.broadcast_to(degrees[:, None], table.real.shape)]
    counts = _popularity(histories, config) + 1  # what one fold alone had has a chance on its graph, too
    counts[0] = 0
    return made_of, {
        "neighbours": np.take_along_axis(np.where(table.real, table.neighbours, len(table)), order, 1).astype(np.int32),
        "features": np.stack([np.take_along_axis(x, order, 1) for x in logs], axis=-1),
        "popularity": counts / counts.sum(),
        "degrees": degrees,
    }


def _popularity(histories: Histories, config: RandomWalkConfig) -> NDArray[np.float32]:
    """Events of each item, (N,), those of long ago counting less where there is a half life."""
    if config.half_life_days is None:
        return histories.item_counts().astype(np.float32)
    places = histories.positions(np.arange(histories.n_users))
    counting = half_life_decay(latest_time(histories) - histories.times[places], config.half_life_days)
    return np.bincount(histories.items[places], counting, minlength=histories.n_items + 1).astype(np.float32)


def _both_ways(transitions: Transitions, users: NDArray[np.int64]) -> Graph:
    """Into each item what followed it and what came before it; its own followers count twice, recent pairs again."""
    n_rows, after = transitions.n_sources, transitions.transposed()
    keys = [graph.targets * n_rows + graph.sources for graph in (after, transitions)]
    every: NDArray[np.int64] = np.union1d(keys[0], keys[1])

    def spread(place: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.zeros(len(every), np.float32)
        found[np.searchsorted(every, keys[place])] = values
        return found

    forward, back = spread(0, after.weights), spread(1, transitions.weights)
    weights = forward + back / 2
    columns = {"forward": forward, "back": back, "count": spread(0, after.columns["count"])}
    if "recent" in transitions.columns:
        recent = spread(0, after.columns["recent"]) + spread(1, transitions.columns["recent"]) / 2
        columns["recent"] = np.asarray(recent, dtype=np.float32)
        weights = weights + recent * (weights.sum() / max(recent.sum(), 1e-30))
    return Graph(
        **compressed(every, n_sources=n_rows, n_targets=n_rows),
        weights=np.asarray(weights / users[every % n_rows] ** POPULARITY, dtype=np.float32),
        columns=columns,
    )


def _logarithm(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """0, which is none, is as far below the smallest number as that is below its double."""
    smallest = values[values > 0].min(initial=np.inf)
    return np.log(np.maximum(values, smallest / 2 if np.isfinite(smallest) else 1))
