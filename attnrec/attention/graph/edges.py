"""The two input formats of a graph layer: edges sorted by target, or a padded table of neighbours.

An edge points from a source to a target: a target attends to the sources of its edges. Sources and targets are row
indices into two matrices, which may be the same one.
Shapes: E edges, N targets, K neighbours at most, F edge features.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SortedEdges:
    """Edges sorted by target, with the offsets of a compressed sparse matrix.

    Attributes:
        sources: (E,) int64. A duplicate edge counts twice.
        targets: (E,) int64, ascending.
        offsets: index of each target's first edge, (N + 1,) int64; the last entry is E.
        edge_features: such as time, weight or event type, (E, F); None for a graph without edge features.

    Raises:
        ValueError: if lengths, dtypes or the order of the tensors are inconsistent.
    """

    sources: Tensor
    targets: Tensor
    offsets: Tensor
    edge_features: Tensor | None = None

    def __post_init__(self) -> None:
        indices = {"sources": self.sources, "targets": self.targets, "offsets": self.offsets}
        formats = {name: f"{values.dtype} {tuple(values.shape)}" for name, values in indices.items()}
        if any(values.dtype != torch.int64 or values.dim() != 1 for values in indices.values()):
            raise ValueError(f"sources, targets and offsets must be int64 of one axis, got {formats}; convert them")
        n_edges, counts = len(self.sources), self.offsets.diff()
        sizes = [len(self.targets), n_edges if self.edge_features is None else len(self.edge_features)]
        if sizes != [n_edges, n_edges] or (self.edge_features is not None and self.edge_features.dim() != 2):
            raise ValueError(
                f"every edge needs one target and one row of edge_features, got {sizes[0]} targets and "
                f"{sizes[1]} rows for {n_edges} sources; pass edge_features as (E, F)"
            )
        ends = self.offsets[[0, -1]].tolist() if len(self.offsets) else []
        if ends != [0, n_edges] or (counts < 0).any():
            raise ValueError(f"offsets must rise from 0 to the {n_edges} edges, got {ends}; use SortedEdges.from_edges")
        if not torch.equal(torch.repeat_interleave(counts), self.targets):
            raise ValueError("targets must agree with offsets, got a different order; use SortedEdges.from_edges")

    @classmethod
    def from_edges(
        cls, sources: Tensor, targets: Tensor, *, n_targets: int, edge_features: Tensor | None = None
    ) -> "SortedEdges":
        """Sort edges by target; the edges of one target keep their order.

        Args:
            sources, targets: (E,) int64, in any order.
            n_targets: N.
            edge_features: (E, F), or None.
        """
        order = targets.argsort(stable=True)
        offsets = counts_to_offsets(torch.bincount(targets, minlength=n_targets))
        features = None if edge_features is None else edge_features.index_select(0, order)
        return cls(sources[order], targets[order], offsets, features)

    def add_self_loops(self) -> "SortedEdges":
        """Add one edge from source k to target k for every target, after its other edges; replace existing self-loops.

        The features of a self-loop are the means over the target's other edges, 0 without any. Only for a graph whose
        sources and targets are rows of the same matrix: in a bipartite graph it would connect user k to item k.
        """
        others, loops = self.sources != self.targets, torch.arange(self.n_targets, device=self.targets.device)
        sources, targets, features = self.sources[others], self.targets[others], None
        if self.edge_features is not None:
            features = self.edge_features[others]
            sums = features.new_zeros(len(loops), features.shape[1]).index_add(0, targets, features)
            counts = torch.bincount(targets, minlength=len(loops)).clamp(min=1)
            features = torch.cat([features, sums / counts[:, None]])
        sources, targets = torch.cat([sources, loops]), torch.cat([targets, loops])
        return SortedEdges.from_edges(sources, targets, n_targets=len(loops), edge_features=features)

    @property
    def n_targets(self) -> int:
        return len(self.offsets) - 1

    @property
    def as_sorted_edges(self) -> "SortedEdges":
        return self

    def align(self, edge_values: Tensor) -> Tensor:
        """Return edge values (E, H) in the layout of this graph: unchanged."""
        return edge_values

    def to_edges(self, target_values: Tensor) -> Tensor:
        """Copy each target's value to its edges: (N, H) -> (E, H)."""
        return target_values.index_select(0, self.targets)

    def reduce(self, edge_values: Tensor, op: Literal["sum", "max"]) -> Tensor:
        """Reduce over the edges of each target, (E, H) -> (N, H); 0 or -inf for a target without edges."""
        return torch.segment_reduce(edge_values, op, offsets=self.offsets, axis=0)


@dataclass(frozen=True, eq=False)
class PaddedNeighbours:
    """At most K neighbours of each target, padded to a rectangle, as neighbour sampling returns them.

    Attributes:
        neighbours: sources, (N, K) int64; padding may hold any value.
        real: False at padding, (N, K) bool.
        edge_features: (N, K, F); None for a graph without edge features.

    Raises:
        ValueError: if the shapes differ or `real` is not bool.
    """

    neighbours: Tensor
    real: Tensor
    edge_features: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = [tuple(self.neighbours.shape), tuple(self.real.shape)]
        shapes += [] if self.edge_features is None else [tuple(self.edge_features.shape[:-1])]
        if self.neighbours.dim() != 2 or len(set(shapes)) > 1 or self.real.dtype != torch.bool:
            raise ValueError(
                "neighbours, real (bool) and edge_features must share the axes (targets, neighbours), "
                f"got {shapes} and {self.real.dtype}; pass (N, K), (N, K) and (N, K, F)"
            )

    @property
    def n_targets(self) -> int:
        return len(self.neighbours)

    @cached_property
    def as_sorted_edges(self) -> SortedEdges:
        """The edges without padding, so that padding costs neither gathers nor products."""
        counts = self.real.sum(1)
        sources = self.neighbours.flatten().index_select(0, self._real_indices)
        features = None
        if self.edge_features is not None:
            features = self.edge_features.flatten(0, 1).index_select(0, self._real_indices)
        return SortedEdges(sources, torch.repeat_interleave(counts), counts_to_offsets(counts), features)

    def align(self, edge_values: Tensor) -> Tensor:
        """Return edge values (E, H) in the layout of this table, (N, K, H), with zeros at padding."""
        shape = self.neighbours.shape
        padded = edge_values.new_zeros(shape.numel(), edge_values.shape[1])
        return padded.index_copy(0, self._real_indices, edge_values).unflatten(0, shape)

    @cached_property
    def _real_indices(self) -> Tensor:
        """Flat indices of the real neighbours among N * K, (E,)."""
        return self.real.flatten().nonzero().squeeze(1)


Graph = SortedEdges | PaddedNeighbours


def counts_to_offsets(counts: Tensor) -> Tensor:
    """Convert segment lengths to start offsets, ending with the total: (N,) -> (N + 1,)."""
    return F.pad(counts.cumsum(0), (1, 0))
