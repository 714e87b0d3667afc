"""Edges as flat arrays, target after target (compressed rows), and the same edges read from the other end.

Shapes: E edges, S source rows, T target rows, F features of an edge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attnrec.dataset.graph.grouping import find_runs, offsets_of, stable_order

Columns = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Graph:
    """Edges source -> target, each pair once, sorted by (target, source). A row without edges has an empty segment.

    Attributes:
        sources: row of each edge's source, (E,) int32.
        offsets: edges into target t are offsets[t] to offsets[t + 1], (T + 1,) int64.
        weights: how strong each edge is, > 0, (E,) float32.
        n_sources: source rows, S. Where sources are items this is n_items + 1: row 0 is padding and has no edge.
        kinds: what sources and targets are: ("item", "user"). The same word twice means the same rows.
        columns: more facts of each edge by name, (E,) float32 each.
        latest: Unix seconds of the newest event in it; None where there is no clock, or no event.
    """

    sources: NDArray[np.int32]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32]
    n_sources: int
    kinds: tuple[str, str] = ("item", "item")
    columns: Columns = field(default_factory=dict)
    latest: int | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def n_targets(self) -> int:
        """Target rows, T."""
        return len(self.offsets) - 1

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Edges into each target, (T,)."""
        return np.diff(self.offsets)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Row of each edge's target, ascending, (E,). Made when asked for: 8 bytes an edge."""
        return np.repeat(np.arange(self.n_targets), self.degrees)

    def transposed(self) -> "Graph":
        """The same edges target -> source, sorted by source."""
        _, order = stable_order(self.sources, n_keys=self.n_sources)
        return Graph(
            sources=self.targets.astype(np.int32)[order],
            offsets=offsets_of(np.bincount(self.sources, minlength=self.n_sources)),
            weights=self.weights[order],
            n_sources=self.n_targets,
            kinds=(self.kinds[1], self.kinds[0]),
            columns={name: values[order] for name, values in self.columns.items()},
            latest=self.latest,
        )

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """What a graph attention layer reads: sources, targets (E,), offsets (T + 1,) int64, edges (E, F) float32.

        For what `edges` holds see `edge_features`.
        """
        columns = {
            "sources": self.sources.astype(np.int64),
            "targets": self.targets,
            "offsets": self.offsets,
            "edges": edge_features(self.weights, self.columns),
        }
        return {name: torch.from_numpy(values).to(device) for name, values in columns.items()}


def edge_features(weights: NDArray[np.float32], columns: Columns) -> NDArray[np.float32]:
    """The weight and then each column, (...,) each, as (..., 1 + n_columns) float32: sign(x) log(1 + |x|).

    Counts and gaps span six orders of magnitude, which no linear projection reads as they are.
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
    kinds: tuple[str, str] = ("item", "item"),
) -> Graph:
    """A graph from edges in any order; of a pair that comes twice the weights are summed, the columns averaged.

    Args:
        sources, targets: rows, whole numbers, (n,) each.
        n_sources, n_targets: rows there are, row 0 counted. Rows that no edge names stay without edges.
        weights: > 0, (n,). Default: 1 each.
        columns: more facts of each edge, (n,) each.
        kinds: what sources and targets are; the same word twice means the same rows.

    Raises:
        ValueError: for a row that does not exist, arrays of unequal lengths, a weight that is not above 0, or a
            number that is not finite, or a column of a name that is taken.
    """
    if kinds[0] == kinds[1] and n_sources != n_targets:
        raise ValueError(
            f"edges between rows of one kind need as many sources as targets, got {n_sources} and {n_targets} of "
            f"{kinds[0]!r}; give the number of all rows twice, or two kinds"
        )
    if "weights" in (columns or {}):
        raise ValueError("a column may have any name but weights, got that; give it as weights, or rename it")
    source_rows = row_numbers(sources, n_rows=n_sources, name="sources")
    target_rows = row_numbers(targets, n_rows=n_targets, name="targets")
    facts = {"weights": np.ones(len(source_rows)) if weights is None else weights, **(columns or {})}
    numbers = {name: np.asarray(values, dtype=np.float32) for name, values in facts.items()}
    _check_numbers(numbers, {"sources": len(source_rows), "targets": len(target_rows)})
    strengths = numbers.pop("weights")
    runs = find_runs(target_rows * n_sources + source_rows, n_keys=n_targets * n_sources)
    means = {name: (runs.sums(values) / runs.counts).astype(np.float32) for name, values in numbers.items()}
    return Graph(
        **compressed(runs.keys, n_sources=n_sources, n_targets=n_targets),
        weights=runs.sums(strengths),
        kinds=kinds,
        columns=means,
    )


def compressed(keys: NDArray[np.int64], *, n_sources: int, n_targets: int) -> dict[str, Any]:
    """The `sources`, `offsets` and `n_sources` of a graph from distinct keys target * n_sources + source, ascending."""
    targets = keys // n_sources
    return {
        "sources": (keys - targets * n_sources).astype(np.int32),
        "offsets": offsets_of(np.bincount(targets, minlength=n_targets)),
        "n_sources": n_sources,
    }


def row_numbers(values: ArrayLike, *, n_rows: int, name: str) -> NDArray[np.int64]:
    """`values` (n,) as rows from 0 to n_rows - 1.

    Raises:
        ValueError: for values that are not whole numbers, or no rows.
    """
    rows = np.asarray(values)
    if len(rows) and rows.dtype.kind not in "iu":
        raise ValueError(f"{name} must be row numbers, got values of type {rows.dtype}; encode the ids first")
    check_rows(rows, n_rows=n_rows, name=name)
    return rows.astype(np.int64)


def check_rows(rows: NDArray[np.integer[Any]], *, n_rows: int, name: str, first: int = 0) -> None:
    """Refuse rows that do not exist.

    Raises:
        ValueError: for a row below `first` or not below n_rows, naming the first one.
    """
    strange = rows[(rows < first) | (rows >= n_rows)]
    if len(strange):
        raise ValueError(
            f"{name} must be rows from {first} to {n_rows - 1}, got {len(strange)} that are not (first: {strange[0]}); "
            "encode the ids with the vocabulary that the graph is for, and leave unknown ones out"
        )


def _check_numbers(numbers: Columns, n_edges: dict[str, int]) -> None:
    lengths = n_edges | {name: len(values) for name, values in numbers.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"edges need arrays of one length, got {lengths}; give one value per edge")
    for name, values in numbers.items():
        bad = values[~(np.isfinite(values) & ((values > 0) | (name != "weights")))]
        if len(bad):
            rule = "finite and above 0" if name == "weights" else "finite"
            raise ValueError(f"{name} must be {rule}, got {len(bad)} that are not (first: {bad[0]}); leave them out")
