"""Graphs in compressed sparse row format: edges grouped by target.

Shapes: E edges, S source rows, T target rows, F edge features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attnrec.dataset.graph.grouping import group_keys, lengths_to_offsets, stable_sort

Columns = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Graph:
    """A weighted graph of one edge type, without duplicate edges, sorted by (target, source).

    Attributes:
        sources: source row of each edge, (E,) int32.
        offsets: the edges into target t are at offsets[t] to offsets[t + 1], (T + 1,) int64.
        weights: edge weights, > 0, (E,) float32.
        n_sources: number of source rows, S. Item nodes have n_items + 1 rows: row 0 is padding and has no edges.
        node_types: types of the source and target nodes, such as ("item", "user"). Nodes of one type share row numbers.
        columns: further edge features by name, (E,) float32 each.
        latest: Unix seconds of the newest event in the graph; None if there are no timestamps or no events.
    """

    sources: NDArray[np.int32]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32]
    n_sources: int
    node_types: tuple[str, str] = ("item", "item")
    columns: Columns = field(default_factory=dict)
    latest: int | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def n_targets(self) -> int:
        """Number of target rows, T."""
        return len(self.offsets) - 1

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Number of edges into each target, (T,)."""
        return np.diff(self.offsets)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Target row of each edge, ascending, (E,) int64; computed at each access, 8 bytes per edge."""
        return np.repeat(np.arange(self.n_targets), self.degrees)

    def transposed(self) -> "Graph":
        """Return the graph with reversed edges."""
        _, order = stable_sort(self.sources, n_keys=self.n_sources)
        return Graph(
            sources=self.targets.astype(np.int32)[order],
            offsets=lengths_to_offsets(np.bincount(self.sources, minlength=self.n_sources)),
            weights=self.weights[order],
            n_sources=self.n_targets,
            node_types=(self.node_types[1], self.node_types[0]),
            columns={name: values[order] for name, values in self.columns.items()},
            latest=self.latest,
        )

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return the input tensors of a graph attention layer.

        Returns:
            sources and targets (E,) int64, offsets (T + 1,) int64, edge_features (E, F) float32, see `edge_features`.
        """
        columns = {
            "sources": self.sources.astype(np.int64),
            "targets": self.targets,
            "offsets": self.offsets,
            "edge_features": edge_features(self.weights, self.columns),
        }
        return {name: torch.from_numpy(values).to(device) for name, values in columns.items()}


def edge_features(weights: NDArray[np.float32], columns: Columns) -> NDArray[np.float32]:
    """Stack the weights and columns, (...,) each, to (..., 1 + n_columns) float32 and apply sign(x) log(1 + |x|).

    Counts and time gaps span six orders of magnitude, which is too much for a linear projection.
    """
    raw = np.stack([weights, *columns.values()], axis=-1)
    return np.sign(raw) * np.log1p(np.abs(raw))


def graph_from_edges(
    sources: ArrayLike,
    targets: ArrayLike,
    *,
    n_sources: int,
    n_targets: int,
    weights: ArrayLike | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
    node_types: tuple[str, str] = ("item", "item"),
) -> Graph:
    """Build a graph from edges in any order. Weights of duplicate edges are summed, columns are averaged.

    Args:
        sources, targets: source and target rows, integers, (n,) each.
        n_sources, n_targets: number of source and target rows, including rows without edges and padding.
        weights: edge weights, > 0, (n,). Default: 1.
        columns: further edge features by name, (n,) each.
        node_types: types of the source and target nodes.

    Raises:
        ValueError: if a row does not exist, arrays differ in length, a weight is not above 0, a value is not finite, a
            column is named "weights", or nodes of one type have different numbers of source and target rows.
    """
    if node_types[0] == node_types[1] and n_sources != n_targets:
        raise ValueError(
            f"n_sources and n_targets must be equal for nodes of one type, got {n_sources} and {n_targets} for "
            f"{node_types[0]!r}; pass the number of all rows twice, or two node types"
        )
    if "weights" in (columns or {}):
        raise ValueError("a column must not be named weights, got columns['weights']; pass it as weights or rename it")
    source_rows = row_numbers(sources, n_rows=n_sources, name="sources")
    target_rows = row_numbers(targets, n_rows=n_targets, name="targets")
    given = {"weights": np.ones(len(source_rows)) if weights is None else weights, **(columns or {})}
    values = {name: np.asarray(array, dtype=np.float32) for name, array in given.items()}
    _check_values(values, {"sources": len(source_rows), "targets": len(target_rows)})
    edge_weights = values.pop("weights")
    groups = group_keys(target_rows * n_sources + source_rows, n_keys=n_targets * n_sources)
    means = {name: (groups.sum(array) / groups.counts).astype(np.float32) for name, array in values.items()}
    return Graph(
        **compress_keys(groups.keys, n_sources=n_sources, n_targets=n_targets),
        weights=groups.sum(edge_weights),
        node_types=node_types,
        columns=means,
    )


def compress_keys(keys: NDArray[np.int64], *, n_sources: int, n_targets: int) -> dict[str, Any]:
    """Return `sources`, `offsets` and `n_sources` of a graph from distinct keys target * n_sources + source, sorted."""
    targets = keys // n_sources
    return {
        "sources": (keys - targets * n_sources).astype(np.int32),
        "offsets": lengths_to_offsets(np.bincount(targets, minlength=n_targets)),
        "n_sources": n_sources,
    }


def row_numbers(values: ArrayLike, *, n_rows: int, name: str) -> NDArray[np.int64]:
    """Convert `values` (n,) to row numbers, int64.

    Raises:
        ValueError: if the values are not integers from 0 to n_rows - 1.
    """
    rows = np.asarray(values)
    if len(rows) and rows.dtype.kind not in "iu":
        raise ValueError(f"{name} must be row numbers, got values of type {rows.dtype}; encode the ids first")
    check_rows(rows, n_rows=n_rows, name=name)
    return rows.astype(np.int64)


def check_rows(rows: NDArray[np.integer[Any]], *, n_rows: int, name: str, first: int = 0) -> None:
    """Check that all rows exist.

    Raises:
        ValueError: if a row is below `first` or not below `n_rows`.
    """
    invalid = rows[(rows < first) | (rows >= n_rows)]
    if len(invalid):
        raise ValueError(
            f"{name} must be rows from {first} to {n_rows - 1}, got {len(invalid)} other values (first: {invalid[0]}); "
            "encode the ids with the vocabulary of the graph and drop unknown ids"
        )


def _check_values(values: Columns, n_edges: dict[str, int]) -> None:
    lengths = n_edges | {name: len(array) for name, array in values.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"edge arrays must have the same length, got {lengths}; pass one value per edge")
    for name, array in values.items():
        invalid = array[~(np.isfinite(array) & ((array > 0) | (name != "weights")))]
        if len(invalid):
            rule = "finite and above 0" if name == "weights" else "finite"
            raise ValueError(
                f"{name} must be {rule}, got {len(invalid)} other values (first: {invalid[0]}); drop these edges"
            )
