"""Edges of a relation as graph layers read them: all edges, a limited number of neighbours, or a random sample.

Shapes: E edges, N targets, at most K neighbours.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from attnrec.attention.graph import PaddedNeighbours, SortedEdges
from attnrec.attention.graph.edges import counts_to_offsets
from attnrec.dataset import Graph, sampled_neighbours, strongest_neighbours
from attnrec.models.graph.settings import COLUMNS, ItemGraphSettings, edge_dim


class RelationEdges:
    """Edges of a relation of one or two hops, for scoring and for training steps.

    Args:
        graphs: item -> item; or item -> node and node -> item.
        settings: settings of the graph; limits and sampling do not apply to attributes, which always use all edges.
        kind: a key of `COLUMNS`.
    """

    def __init__(self, graphs: tuple[Graph, ...], settings: ItemGraphSettings, kind: str) -> None:
        self.graphs = tuple(_with_columns(graph, kind) for graph in graphs)
        self.settings, self.is_limited, self.samples_once = settings, kind != "attribute", kind == "bipartite"
        self.has_features = edge_dim(settings, kind) > 0
        self._scoring: list[SortedEdges] = []
        self._reverse: torch.Tensor | None = None

    def scoring_edges(self, device: torch.device) -> list[SortedEdges]:
        """Return the edges of each hop that scoring uses; built once per device."""
        if not self._scoring or self._scoring[0].offsets.device != device:
            self._scoring = [_to_device(self._limited(graph), device) for graph in self.graphs]
        return self._scoring

    def training_edges(self, device: torch.device) -> list[SortedEdges]:
        """Return the edges of each hop for one training step; sampling uses torch's CPU generator."""
        settings = self.settings
        if not self.is_limited:
            return self.scoring_edges(device)
        if settings.sample:
            assert settings.neighbours is not None, "checked with the settings"
            tables = [sampled_neighbours(graph, settings.neighbours, seed=_generator()) for graph in self.graphs]
            return [_to_device(self._sorted(PaddedNeighbours(**table.tensors())), device) for table in tables]
        if settings.edges_per_step is None:
            return self.scoring_edges(device)
        return _without_isolated(list(self._sampled(self.scoring_edges(device), settings.edges_per_step)))

    def _limited(self, graph: Graph) -> SortedEdges:
        k = self.settings.neighbours
        if k is None or not self.is_limited:
            return self._sorted(SortedEdges(**graph.tensors()))
        # user-item counts are mostly 1: the strongest edges would be those to the items with the smallest rows
        table = sampled_neighbours(graph, k) if self.samples_once else strongest_neighbours(graph, k)
        return self._sorted(PaddedNeighbours(**table.tensors()))

    def _sorted(self, edges: SortedEdges | PaddedNeighbours) -> SortedEdges:
        edges = edges.as_sorted_edges
        return edges if self.has_features else replace(edges, edge_features=None)

    def _sampled(self, hops: list[SortedEdges], n: int) -> Iterator[SortedEdges]:
        """Sample n edges of each hop; the same ones in both hops, if the second is the reverse of the first."""
        chosen = None
        for hop in hops:
            if len(hop.sources) <= n:
                yield hop
            elif chosen is not None and self.settings.neighbours is None:
                yield _subset(hop, self._reverse_indices()[chosen].sort().values)
            else:
                indices = _generator().choice(len(hop.sources), n, replace=False, shuffle=False)
                chosen = torch.from_numpy(np.sort(indices)).to(hop.sources.device)
                yield _subset(hop, chosen)

    def _reverse_indices(self) -> torch.Tensor:
        """Return the index in the second hop of each edge of the first hop, whose reverse it is, (E,)."""
        if self._reverse is None or self._reverse.device != self._scoring[0].sources.device:
            order = self._scoring[0].sources.argsort(stable=True)
            self._reverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return self._reverse


def _with_columns(graph: Graph, kind: str) -> Graph:
    zeros = np.zeros(len(graph), dtype=np.float32)
    return replace(graph, columns={name: graph.columns.get(name, zeros) for name in COLUMNS[kind]})


def _to_device(edges: SortedEdges, device: torch.device) -> SortedEdges:
    if edges.offsets.device == device:
        return edges
    features = None if edges.edge_features is None else edges.edge_features.to(device)
    return SortedEdges(edges.sources.to(device), edges.targets.to(device), edges.offsets.to(device), features)


def _subset(edges: SortedEdges, chosen: torch.Tensor) -> SortedEdges:
    """Select edges by ascending indices."""
    targets = edges.targets[chosen]
    offsets = counts_to_offsets(torch.bincount(targets, minlength=edges.n_targets))
    features = None if edges.edge_features is None else edges.edge_features[chosen]
    return SortedEdges(edges.sources[chosen], targets, offsets, features)


def _without_isolated(hops: list[SortedEdges]) -> list[SortedEdges]:
    """Drop the intermediate nodes of two hops that have no edge, and renumber the others."""
    if len(hops) < 2:
        return hops
    inward, outward = hops
    nodes = torch.cat([inward.targets, outward.sources]).unique()
    targets, sources = (torch.searchsorted(nodes, ends) for ends in (inward.targets, outward.sources))
    offsets = counts_to_offsets(torch.bincount(targets, minlength=len(nodes)))
    return [
        SortedEdges(inward.sources, targets, offsets, inward.edge_features),
        SortedEdges(sources, outward.targets, outward.offsets, outward.edge_features),
    ]


def _generator() -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**63 - 1, ())))
