"""A bounded number of neighbours per node: the strongest, or a random sample.

Shapes: N nodes, K neighbours, F edge features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset.graph.compressed import Columns, Graph, edge_features

INFINITY_BITS = np.uint32(0x7F800000)  # non-negative floats have the same order as their bit patterns


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """The sources of up to K edges into each of N targets, padded on the right.

    Attributes:
        neighbours: source rows, 0 at padding, (N, K) int64.
        real: False at padding, (N, K) bool. User row 0 is a valid neighbour, so use this mask to detect padding.
        weights: edge weights, 0 at padding, (N, K) float32.
        columns: edge columns, 0 at padding, (N, K) float32 each.
    """

    neighbours: NDArray[np.int64]
    real: NDArray[np.bool_]
    weights: NDArray[np.float32]
    columns: Columns

    def __len__(self) -> int:
        return len(self.neighbours)

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return the input tensors of a graph attention layer.

        Returns:
            neighbours (N, K) int64, real (N, K) bool, edge_features (N, K, F) float32, see `edge_features`.
        """
        features = edge_features(self.weights, self.columns)
        columns = {"neighbours": self.neighbours, "real": self.real, "edge_features": features}
        return {name: torch.from_numpy(values).to(device) for name, values in columns.items()}


def strongest_neighbours(graph: Graph, k: int) -> NeighbourTable:
    """Return the k sources with the largest edge weights of each target, strongest first.

    Raises:
        ValueError: if k is below 1.
    """
    check_k(k)
    return _largest(graph, graph.weights, k)


def sampled_neighbours(
    graph: Graph, k: int, *, seed: int | np.random.Generator = 0, weighted: bool = True
) -> NeighbourTable:
    """Sample k sources of each target without replacement; a target with at most k sources gets all of them.

    Weighted sampling draws each next source with a probability proportional to its weight among the remaining ones
    (Efraimidis & Spirakis 2006, doi:10.1016/j.ipl.2005.11.003). The k largest of u ** (1 / weight), with u uniform, are
    such a sample, and equivalently the k largest of weight / e, with e = -log u exponential. Sources are in the order
    of the draws.

    Args:
        graph: the graph.
        k: sources per target, at most.
        seed: a seed, or a generator, which is advanced.
        weighted: False: sample uniformly.

    Raises:
        ValueError: if k is below 1.
    """
    check_k(k)
    exponential = np.random.default_rng(seed).standard_exponential(len(graph), dtype=np.float32)
    exponential = np.maximum(exponential, np.finfo(np.float32).tiny)
    with np.errstate(over="ignore", under="ignore"):
        priorities = np.divide(graph.weights if weighted else np.float32(1), exponential)
    return _largest(graph, priorities, k)


def check_k(k: int, *, name: str = "k") -> None:
    """Check a number of neighbours.

    Raises:
        ValueError: if k is below 1.
    """
    if k < 1:
        raise ValueError(f"{name} must be at least 1, got {k}; pass the number of neighbours per node")


def gather_edges(
    graph: Graph, edges: NDArray[np.int64], real: NDArray[np.bool_], *, neighbours: NDArray[np.int64] | None = None
) -> NeighbourTable:
    """Gather edges of a graph into a table.

    Args:
        graph: the graph.
        edges: edge numbers, row by row of the table, (n_real,).
        real: entries of the table that are filled, (N, K) bool.
        neighbours: source of each edge; default: its row in the graph, (n_real,).
    """

    def scatter(values: NDArray[Any]) -> NDArray[Any]:
        table = np.zeros(real.shape, dtype=values.dtype)
        table[real] = values
        return table

    return NeighbourTable(
        neighbours=scatter(graph.sources[edges].astype(np.int64) if neighbours is None else neighbours),
        real=real,
        weights=scatter(graph.weights[edges]),
        columns={name: scatter(values[edges]) for name, values in graph.columns.items()},
    )


def _largest(graph: Graph, priorities: NDArray[np.float32], k: int) -> NeighbourTable:
    """Return the edges with the k largest priorities, >= 0, of each target, largest first."""
    descending = (INFINITY_BITS - priorities.view(np.uint32)).astype(np.int64)
    # ties: the smaller source row comes first, so that two runs agree
    order = torch.from_numpy(graph.targets << 32 | descending).sort(stable=True).indices.numpy()
    ranks = np.arange(len(graph)) - np.repeat(graph.offsets[:-1], graph.degrees)
    return gather_edges(graph, order[ranks < k], np.arange(k) < graph.degrees[:, None])
