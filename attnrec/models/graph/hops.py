"""The graphs of a relation, in the form in which layers take them: all edges, a bound on neighbours, or a draw.

Shapes: E edges, N targets, K neighbours at most.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from attnrec.attention.graph import Segments, Table
from attnrec.attention.graph.forms import offsets_of
from attnrec.dataset import Graph, sampled_neighbours, strongest_neighbours
from attnrec.models.graph.settings import COLUMNS, ItemGraphSettings, edge_dim


class Hops:
    """The one or two graphs of a relation, in the form in which layers take them.

    Args:
        graphs: item -> item; or item -> node and node -> item.
        settings: of the graph; of an attribute all edges are read always, whatever they say.
        kind: a key of `COLUMNS`.
    """

    def __init__(self, graphs: tuple[Graph, ...], settings: ItemGraphSettings, kind: str) -> None:
        self.graphs = tuple(_with_columns(graph, kind) for graph in graphs)
        self.settings, self.bounded, self.drawn_once = settings, kind != "attribute", kind == "bipartite"
        self.knows_edges = edge_dim(settings, kind) > 0
        self.kept: list[Segments] = []
        self.places: torch.Tensor | None = None

    def whole(self, device: torch.device) -> list[Segments]:
        """What scoring reads, hop by hop; made once for a device."""
        if not self.kept or self.kept[0].offsets.device != device:
            self.kept = [_moved(self._bounded(graph), device) for graph in self.graphs]
        return self.kept

    def drawn(self, device: torch.device) -> list[Segments]:
        """What a training step reads; draws follow torch's generator of the CPU."""
        settings = self.settings
        if not self.bounded:
            return self.whole(device)
        if settings.sample:
            assert settings.neighbours is not None, "checked with the settings"
            tables = [sampled_neighbours(graph, settings.neighbours, seed=_generator()) for graph in self.graphs]
            return [_moved(self._segments(Table(**table.tensors())), device) for table in tables]
        if settings.edges_per_step is None:
            return self.whole(device)
        return _without_idle(list(self._thinned(self.whole(device), settings.edges_per_step)))

    def _bounded(self, graph: Graph) -> Segments:
        k = self.settings.neighbours
        if k is None or not self.bounded:
            return self._segments(Segments(**graph.tensors()))
        # counts of users and items are mostly 1: the strongest would be those of the smallest rows
        table = sampled_neighbours(graph, k) if self.drawn_once else strongest_neighbours(graph, k)
        return self._segments(Table(**table.tensors()))

    def _segments(self, form: Segments | Table) -> Segments:
        found = form.as_segments
        return found if self.knows_edges else replace(found, edges=None)

    def _thinned(self, hops: list[Segments], n: int) -> Iterator[Segments]:
        """Some edges of each hop; the same ones in both where they are the same edges."""
        chosen = None
        for hop in hops:
            if len(hop.sources) <= n:
                yield hop
            elif chosen is not None and self.settings.neighbours is None:
                yield _subset(hop, self._places_back()[chosen].sort().values)
            else:
                drawn = _generator().choice(len(hop.sources), n, replace=False, shuffle=False)
                chosen = torch.from_numpy(np.sort(drawn)).to(hop.sources.device)
                yield _subset(hop, chosen)

    def _places_back(self) -> torch.Tensor:
        """Where each edge of the first hop stands in the second, which is its reverse, (E,)."""
        if self.places is None or self.places.device != self.kept[0].sources.device:
            order = self.kept[0].sources.argsort(stable=True)
            self.places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return self.places


def _with_columns(graph: Graph, kind: str) -> Graph:
    nothing = np.zeros(len(graph), dtype=np.float32)
    return replace(graph, columns={name: graph.columns.get(name, nothing) for name in COLUMNS[kind]})


def _moved(form: Segments, device: torch.device) -> Segments:
    if form.offsets.device == device:
        return form
    edges = None if form.edges is None else form.edges.to(device)
    return Segments(form.sources.to(device), form.targets.to(device), form.offsets.to(device), edges)


def _subset(form: Segments, chosen: torch.Tensor) -> Segments:
    """Some edges, by their places in ascending order."""
    targets = form.targets[chosen]
    offsets = offsets_of(torch.bincount(targets, minlength=form.n_targets))
    return Segments(form.sources[chosen], targets, offsets, None if form.edges is None else form.edges[chosen])


def _without_idle(hops: list[Segments]) -> list[Segments]:
    """Two hops whose nodes between are only those that an edge still leads to or from, numbered anew."""
    if len(hops) < 2:
        return hops
    inward, outward = hops
    nodes = torch.cat([inward.targets, outward.sources]).unique()
    targets, sources = (torch.searchsorted(nodes, ends) for ends in (inward.targets, outward.sources))
    offsets = offsets_of(torch.bincount(targets, minlength=len(nodes)))
    return [
        Segments(inward.sources, targets, offsets, inward.edges),
        Segments(sources, outward.targets, outward.offsets, outward.edges),
    ]


def _generator() -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**63 - 1, ())))
