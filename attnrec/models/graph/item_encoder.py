"""Items that hear of their neighbours: graph attention over relations between items, before any history is read.

GAT (Velickovic et al. 2018, arXiv:1710.10903) or GATv2 (Brody, Alon & Yahav 2022, arXiv:2105.14491), with an attention
of its own for each relation, whose results are added, as relations are in R-GCN (Schlichtkrull et al. 2018,
arXiv:1703.06103). A user, or the value of an attribute, is the mean of its items and never a row of a table.
Shapes: N = n_items + 1 item rows (row 0 is padding), D channels.
"""

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention import Attended
from attnrec.attention.graph import GraphLayer, GraphShape, Segments, build_graph_layer
from attnrec.attention.graph.weighted_sum import weighted_sum
from attnrec.dataset import Features, Graph, Histories, attribute_edges
from attnrec.layers import Dropout
from attnrec.models.base import Model
from attnrec.models.graph.hops import Hops
from attnrec.models.graph.neighbour_shares import NeighbourShares
from attnrec.models.graph.relations import ItemRelations, item_relations
from attnrec.models.graph.settings import ItemGraphSettings, Relation, attribute_name, edge_dim
from attnrec.models.graph.shares import direct_shares, leading_to, through_shares


class ItemGraphEncoder(nn.Module):
    """Enriches a table of item vectors; an item that no edge leads to keeps its own vector.

    None of its parameters has a row per item or user. The graph is not saved: a model that scores needs only the
    finished table.

    Args:
        settings: of the graph.
        dim: D, a multiple of `settings.heads`.
        relations: what joins items, beside `settings.attributes`; may be none where there are attributes.

    Attributes:
        share: of what was received that is added to the own vector, a scalar; None where it is not learned.
        made: relations of the log that was observed, and what they were made of.

    Raises:
        ValueError: for a setting that means nothing to these relations, or no relation at all.
    """

    known: Tensor | None

    def __init__(self, settings: ItemGraphSettings, dim: int, *, relations: tuple[Relation, ...]) -> None:
        super().__init__()
        settings.check(relations)
        if dim % settings.heads:
            raise ValueError(f"dim must be a multiple of the graph's heads, got {dim} and {settings.heads}; change one")
        if len(set(relations)) < len(relations) or not (relations or settings.attributes):
            raise ValueError(f"a graph needs relations, each once, got {list(relations)}; name one, or attributes")
        self.settings, self.relations = settings, relations
        self.kinds = settings.names(relations)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: _RELATIONS[kind](settings, dim, kind=kind) for name, kind in self.kinds.items()})
            for _ in range(settings.layers)
        )
        learned = settings.residual == "share" and settings.layers > 0
        self.share = nn.Parameter(torch.zeros(())) if learned else None
        self.dropout = Dropout(settings.dropout)
        self.register_buffer("known", None, persistent=False)
        self.columns: dict[str, Graph] = {}
        self.hops: dict[str, Hops] = {}
        self.made = ItemRelations({})

    @property
    def observed(self) -> bool:
        """Whether it has a graph; a model that was loaded to score has none."""
        return self.known is not None

    @property
    def made_of(self) -> dict[str, Any]:
        """See `Model.graphs`."""
        return {"edges": self.made.edges, "transitions": self.made.transitions}

    def describe(self, features: Features) -> None:
        """Keep the attributes that the settings ask for; without them it cannot observe.

        Raises:
            ValueError: for a column that the items do not have, or that is no category.
        """
        for name in self.settings.attributes:
            if name not in features.categories:
                there = ", ".join(features.categories) or "none"
                raise ValueError(f"attributes must be categories of the items, got {name!r}; there are {there}")
        columns = attribute_edges(features, features.n_rows - 1) if self.settings.attributes else {}
        self.columns = {name: columns[name] for name in self.settings.attributes}

    def observe(self, histories: Histories, *, hide_unknown: bool = True) -> None:
        """Make the graph of the training part.

        Args:
            histories: training events only.
            hide_unknown: where there are attributes, an item without history is known by them alone, and its own
                vector, which nothing trained, is left out. False where its vector has another source.

        Raises:
            ValueError: for transitions of an unordered log, or attributes that nobody gave (see `describe`).
        """
        self._check(histories)
        known = torch.ones(histories.n_items + 1, 1)
        if self.settings.attributes and hide_unknown:
            known = torch.from_numpy(histories.item_counts() > 0).float()[:, None]
        known[0] = 0
        self.known = known
        if len(self.layers):
            self.made = item_relations(histories, self.relations, self.settings, attributes=self.columns)
        graphs = self.made.graphs
        self.hops = {name: Hops(graphs[name], self.settings, kind) for name, kind in self.kinds.items() if graphs}

    def described(self) -> Tensor:
        """Whether an item hears of others by its attributes, (N,) bool; False for all where there are none."""
        assert self.known is not None, "a graph is observed before it is asked"
        found = torch.zeros(len(self.known), dtype=torch.bool, device=self.known.device)
        for column in self.columns:
            if (hops := self.hops.get(attribute_name(column))) is not None:
                found |= torch.from_numpy(hops.graphs[-1].degrees > 0).to(found.device)
        return found

    def forward(self, vectors: Tensor) -> Tensor:
        """Item vectors (N, D) -> enriched item vectors (N, D), zeros in row 0; in training edges may be drawn."""
        assert self.known is not None, "a graph model observes its graph before it trains"
        own, device = vectors * self.known.to(vectors.device), vectors.device
        if not len(self.layers):
            return own
        hops = {name: hop.drawn(device) if self.training else hop.whole(device) for name, hop in self.hops.items()}
        reached = reduce(torch.logical_or, (_reached(relation[-1]) for relation in hops.values()))
        received: list[Tensor] = []
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict), "a layer has a module for each relation"
            state = self._joined(own, received[-1], reached) if received else own
            heard = [layer[name](state, relation) for name, relation in hops.items()]
            received.append(reduce(torch.add, heard))
        total = received[-1]
        if self.settings.combine != "last":
            total = torch.stack(received).sum(0) / (len(received) if self.settings.combine == "mean" else 1)
        return self._joined(own, total, reached)

    def neighbour_shares(self, vectors: Tensor, items: Tensor) -> dict[str, NeighbourShares]:
        """To whom items (n,) listen in the first layer, relation by relation; none where there is no layer.

        Args:
            vectors: of all items, (N, D), as `forward` takes them.
            items: item rows.

        Raises:
            ValueError: for a graph that observed nothing.
        """
        if self.known is None:
            raise ValueError(
                "paths need the training graph, which a saved model does not keep; "
                "fit, or call model.observe(histories of the training part)"
            )
        if not len(self.layers):
            return {}
        own, layer = vectors * self.known.to(vectors.device), self.layers[0]
        assert isinstance(layer, nn.ModuleDict), "a layer has a module for each relation"
        found: dict[str, NeighbourShares] = {}
        for name, hop in self.hops.items():
            part = layer[name]
            assert isinstance(part, Direct | Through), "which relations are"
            found[name] = part.shares(own, items, leading_to(hop.whole(vectors.device), items))
        return found

    def _joined(self, own: Tensor, received: Tensor, reached: Tensor) -> Tensor:
        """The item's own vector and what it received, which is zeros where no edge leads to it."""
        received = self.dropout(received)
        if self.settings.residual == "none":
            return torch.where(reached, received, own)
        return own + (received if self.share is None else self.share * received)

    def _check(self, histories: Histories) -> None:
        if self.settings.attributes and not self.columns:
            raise ValueError(
                f"attributes = {list(self.settings.attributes)} needs the items' features, got none; "
                "give the experiment a table [items], or fit(items=frame)"
            )
        for name, graph in self.columns.items():
            assert graph.n_sources == histories.n_items + 1, f"{name} is aligned with the catalogue"


def observed_graphs(model: Model, histories: Histories) -> dict[str, Any]:
    """What a model makes its graph of when it observes these histories, by the keywords of `dataset.audit_split`.

    Args:
        model: any; it observes the histories if it has a graph.
        histories: the training part.

    Returns:
        edges and transitions, None where nothing is made of them; empty for a model without a graph.
    """
    if not model.has_graph or (model.needs_order and not histories.ordered):  # training says what is wrong with that
        return {}
    model.observe(histories)
    return model.graphs()


class Direct(nn.Module):
    """One hop, item -> item; both are projected by one matrix."""

    def __init__(self, settings: ItemGraphSettings, dim: int, *, kind: str) -> None:
        super().__init__()
        self.layer = _layer(settings, dim, kind=kind, shared=True)

    def forward(self, items: Tensor, hops: list[Segments]) -> Tensor:
        """(N, D) -> what each item received, (N, D), zeros where it has no edge."""
        (hop,) = hops
        return self.layer(items, graph=hop).output * _reached(hop)

    def shares(self, items: Tensor, asked: Tensor, hops: list[Segments]) -> NeighbourShares:
        """Of what item rows (n,) hear, over hops that lead to them (see `leading_to`)."""
        (hop,) = hops
        return direct_shares(hop, self.layer(items, items[asked], graph=hop, need_weights=True))


class Through(nn.Module):
    """Two hops, item -> node -> item; a node asks as the mean of its items."""

    def __init__(self, settings: ItemGraphSettings, dim: int, *, kind: str) -> None:
        super().__init__()
        self.to_nodes = _layer(settings, dim, kind=kind, shared=False)
        self.to_items = _layer(settings, dim, kind=kind, shared=False)

    def forward(self, items: Tensor, hops: list[Segments]) -> Tensor:
        """(N, D) -> what each item received, (N, D), zeros where it has no edge."""
        return self._attended(items, items, hops)[1].output * _reached(hops[1])

    def shares(self, items: Tensor, asked: Tensor, hops: list[Segments]) -> NeighbourShares:
        """Of what item rows (n,) hear through nodes, over hops that lead to them (see `leading_to`)."""
        attended = self._attended(items, items[asked], hops, need_weights=True)
        return through_shares(hops, attended, n_rows=len(items))

    def _attended(
        self, items: Tensor, asking: Tensor, hops: list[Segments], *, need_weights: bool = False
    ) -> tuple[Attended, Attended]:
        inward, outward = hops
        nodes = self.to_nodes(items, _means(items, inward), graph=inward, need_weights=need_weights)
        return nodes, self.to_items(F.gelu(nodes.output), asking, graph=outward, need_weights=need_weights)


_RELATIONS = {"bipartite": Through, "items": Direct, "transitions": Direct, "attribute": Through}


def _layer(settings: ItemGraphSettings, dim: int, *, kind: str, shared: bool) -> GraphLayer:
    shape = GraphShape(
        dim, dim, heads=settings.heads, channels=dim // settings.heads, edge_dim=edge_dim(settings, kind)
    )
    return build_graph_layer(settings.layer, shape, {"shared": shared})


def _reached(hop: Segments) -> Tensor:
    """Where an edge leads to, (N, 1) bool."""
    return (hop.offsets.diff() > 0)[:, None]


def _means(items: Tensor, hop: Segments) -> Tensor:
    """Of the sources of each target, zeros where there is none."""
    shares = 1 / hop.offsets.diff().clamp(min=1).to(items.dtype)
    return weighted_sum(items, shares.index_select(0, hop.targets)[:, None], hop)
