"""Item vectors enriched by graph attention over relations between items, before any history is read.

GAT (Velickovic et al. 2018, arXiv:1710.10903) or GATv2 (Brody, Alon & Yahav 2022, arXiv:2105.14491), with separate
attention for each relation and a sum over relations, as in R-GCN (Schlichtkrull et al. 2018, arXiv:1703.06103). The
node of a user or of an attribute value is the mean of its items and has no embedding.
Shapes: N = n_items + 1 item rows (row 0 is padding), n requested items, D channels.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from attnrec.dataset import Features, Graph, Histories, attribute_edges
from attnrec.layers import Dropout
from attnrec.models.graph.edge_weights import incoming_edges
from attnrec.models.graph.neighbour_weights import NeighbourWeights
from attnrec.models.graph.relation_edges import RelationEdges
from attnrec.models.graph.relation_layers import OneHop, TwoHops, has_edges
from attnrec.models.graph.relations import ItemRelations, item_relations
from attnrec.models.graph.settings import ItemGraphSettings, Relation, attribute_name

_RELATION_LAYERS = {"bipartite": TwoHops, "items": OneHop, "transitions": OneHop, "attribute": TwoHops}


class ItemGraphEncoder(nn.Module):
    """Enriches a table of item vectors; an item without edges keeps its own vector.

    No parameter has one row per item or user. The graph is not saved: scoring needs only the resulting table.

    Args:
        settings: settings of the graph.
        dim: D, a multiple of `settings.heads`.
        relations: edges between items, in addition to `settings.attributes`; may be empty if there are attributes.

    Attributes:
        residual_scale: learned factor of the attention output, a scalar; None unless `residual` is "learned".
        has_vector: 1 for items whose own vector is used, 0 for items that only attributes represent, (N, 1); None
            before `observe`.
        attribute_graphs: column -> item -> value, from `set_attributes`.
        item_relations: graphs of the observed log, and the edges and transitions that they were built from.
        edges: relation -> its edges.

    Raises:
        ValueError: for a setting that does not apply to the relations, or without any relation.
    """

    has_vector: Tensor | None

    def __init__(self, settings: ItemGraphSettings, dim: int, *, relations: tuple[Relation, ...]) -> None:
        super().__init__()
        settings.check(relations)
        if dim % settings.heads:
            raise ValueError(
                f"heads of the graph must divide dim, got heads={settings.heads} and dim={dim}; change one"
            )
        if len(set(relations)) < len(relations) or not (relations or settings.attributes):
            raise ValueError(
                f"relations must be distinct and not empty, got {list(relations)}; name one, or attributes"
            )
        self.settings, self.relations = settings, relations
        self.kinds = settings.names(relations)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: _RELATION_LAYERS[kind](settings, dim, kind=kind) for name, kind in self.kinds.items()})
            for _ in range(settings.layers)
        )
        learned = settings.residual == "learned" and settings.layers > 0
        self.residual_scale = nn.Parameter(torch.zeros(())) if learned else None
        self.dropout = Dropout(settings.dropout)
        self.register_buffer("has_vector", None, persistent=False)
        self.attribute_graphs: dict[str, Graph] = {}
        self.item_relations = ItemRelations({})
        self.edges: dict[str, RelationEdges] = {}

    @property
    def observed(self) -> bool:
        """Whether there is a graph; a model loaded for scoring has none."""
        return self.has_vector is not None

    @property
    def sources(self) -> dict[str, Any]:
        """See `Model.graph_sources`."""
        return {"edges": self.item_relations.edges, "transitions": self.item_relations.transitions}

    def set_attributes(self, features: Features) -> None:
        """Set the item attributes that the settings name; `observe` needs them.

        Raises:
            ValueError: for a column that does not exist or is not a category.
        """
        for name in self.settings.attributes:
            if name not in features.categories:
                columns = ", ".join(features.categories) or "none"
                raise ValueError(f"attributes must be category columns of the items, got {name!r}; there are {columns}")
        graphs = attribute_edges(features, features.n_rows - 1) if self.settings.attributes else {}
        self.attribute_graphs = {name: graphs[name] for name in self.settings.attributes}

    def observe(self, histories: Histories, *, hide_untrained: bool = True) -> None:
        """Build the graph of the training part.

        Args:
            histories: training events only.
            hide_untrained: with attributes, ignore the own vector of items without training events, which is untrained,
                so that they are represented by their attributes. False if their vectors come from item features.

        Raises:
            ValueError: for transitions of an unordered log, or if attributes are not set (see `set_attributes`).
        """
        self._check(histories)
        has_vector = torch.ones(histories.n_items + 1, 1)
        if self.settings.attributes and hide_untrained:
            has_vector = torch.from_numpy(histories.item_counts() > 0).float()[:, None]
        has_vector[0] = 0
        self.has_vector = has_vector
        if len(self.layers):
            attributes = self.attribute_graphs
            self.item_relations = item_relations(histories, self.relations, self.settings, attributes=attributes)
        graphs = self.item_relations.graphs
        names = self.kinds.items() if graphs else ()
        self.edges = {name: RelationEdges(graphs[name], self.settings, kind) for name, kind in names}

    def has_attributes(self) -> Tensor:
        """Return whether an item receives messages through its attributes, (N,) bool."""
        assert self.has_vector is not None, "call observe first"
        has_edge = torch.zeros(len(self.has_vector), dtype=torch.bool, device=self.has_vector.device)
        for column in self.attribute_graphs:
            if (edges := self.edges.get(attribute_name(column))) is not None:
                has_edge |= torch.from_numpy(edges.graphs[-1].degrees > 0).to(has_edge.device)
        return has_edge

    def forward(self, vectors: Tensor) -> Tensor:
        """Enrich item vectors, (N, D) -> (N, D); zeros in row 0. In training, edges may be sampled."""
        own, device = self._own_vectors(vectors), vectors.device
        if not len(self.layers):
            return own
        hops = {
            name: edges.training_edges(device) if self.training else edges.scoring_edges(device)
            for name, edges in self.edges.items()
        }
        has_edge = reduce(torch.logical_or, (has_edges(relation[-1]) for relation in hops.values()))
        outputs: list[Tensor] = []
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict), "a layer has a module for each relation"
            inputs = self._add_residual(own, outputs[-1], has_edge) if outputs else own
            outputs.append(reduce(torch.add, [layer[name](inputs, relation) for name, relation in hops.items()]))
        total = outputs[-1]
        if self.settings.combine != "last":
            total = torch.stack(outputs).sum(0) / (len(outputs) if self.settings.combine == "mean" else 1)
        return self._add_residual(own, total, has_edge)

    def neighbour_weights(self, vectors: Tensor, items: Tensor) -> dict[str, NeighbourWeights]:
        """Return the attention weights of items on their neighbours in the first layer, by relation.

        Args:
            vectors: vectors of all items, (N, D), as for `forward`.
            items: item rows, (n,).

        Raises:
            ValueError: before `observe`.
        """
        if not self.observed:
            raise ValueError(
                "neighbour weights need the training graph, which a saved model does not contain; "
                "call fit, or model.observe(histories of the training part)"
            )
        if not len(self.layers):
            return {}
        own, layer = self._own_vectors(vectors), self.layers[0]
        assert isinstance(layer, nn.ModuleDict), "a layer has a module for each relation"
        weights: dict[str, NeighbourWeights] = {}
        for name, edges in self.edges.items():
            relation = layer[name]
            assert isinstance(relation, OneHop | TwoHops), "these are the relation layers"
            weights[name] = relation.weights(own, items, incoming_edges(edges.scoring_edges(vectors.device), items))
        return weights

    def _own_vectors(self, vectors: Tensor) -> Tensor:
        assert self.has_vector is not None, "the graph is observed before training"
        return vectors * self.has_vector.to(vectors.device)

    def _add_residual(self, own: Tensor, output: Tensor, has_edge: Tensor) -> Tensor:
        """Add the attention output, which is zero for items without edges, to the items' own vectors."""
        output = self.dropout(output)
        if self.settings.residual == "none":
            return torch.where(has_edge, output, own)
        return own + (output if self.residual_scale is None else self.residual_scale * output)

    def _check(self, histories: Histories) -> None:
        if self.settings.attributes and not self.attribute_graphs:
            raise ValueError(
                f"attributes = {list(self.settings.attributes)} needs item features, got none; "
                "add a table [items] to the experiment, or call fit(items=frame)"
            )
        for name, graph in self.attribute_graphs.items():
            assert graph.n_sources == histories.n_items + 1, f"{name} is aligned with the catalogue"
