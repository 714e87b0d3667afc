"""Settings of a graph of items, and the names of its relations.

A relation is one hop, from item to item, or two: from items to a user, or to a value of an attribute, and back.
"""

from typing import Literal

from pydantic import Field, model_validator

from attnrec.config import Config

Relation = Literal["bipartite", "items", "transitions"]

COLUMNS = {"bipartite": ("age_days",), "items": ("count",), "transitions": ("count", "gap_seconds"), "attribute": ()}
"""What attention may know of an edge beside its weight; a column that a log does not have is 0."""


class ItemGraphSettings(Config):
    """How items are enriched over a graph.

    Attributes:
        layer: "gatv2" or "gat" (see `attention.graph`).
        layers: how often items hear of each other; the next layer hears what has become of them. 0 leaves items their
            own vectors.
        heads: of the attention.
        neighbours: of each node, the K with the strongest edges; users have no strongest item and get K drawn once.
            None: all edges.
        sample: in each training step K are drawn anew by weight; scoring takes the strongest.
        edges_per_step: at most this many edges of a hop, drawn anew, are used in each training step. None: all.
        edge_features: whether attention knows the edges: weight, count, time between the events or since them.
        dropout: of what an item received.
        residual: how it is added to the item's own vector: a learned "share" of it, 0 at the start, so that training
            begins with the model without a graph; all of it ("sum"); or it takes its place ("none").
        combine: what was received, of several layers: the "last", the "mean" or the "sum".
        directed: transitions from earlier to later items and back are two relations, each with its own attention; False
            makes one of both.
        reach, half_life_days: of transitions, see `dataset.item_transitions`.
        attributes: columns of categories of the items' table, each a relation: items of one value hear of each other.
    """

    layer: Literal["gatv2", "gat", "pyg_gat", "pyg_gatv2", "pyg_transformer"] = "gatv2"
    layers: int = Field(default=1, ge=0, le=3)
    heads: int = Field(default=4, gt=0)
    neighbours: int | None = Field(default=20, gt=0)
    sample: bool = False
    edges_per_step: int | None = Field(default=None, gt=0)
    edge_features: bool = False
    dropout: float = Field(default=0.1, ge=0, lt=1)
    residual: Literal["share", "sum", "none"] = "share"
    combine: Literal["last", "mean", "sum"] = "last"
    directed: bool = True
    reach: int = Field(default=1, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    attributes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_graph(self) -> "ItemGraphSettings":
        if self.sample and self.neighbours is None:
            raise ValueError("sample = true needs a number of neighbours to draw, got none; set neighbours = 20")
        return self

    def check(self, relations: tuple[Relation, ...]) -> None:
        """Refuse what means nothing to these relations.

        Raises:
            ValueError: naming the setting.
        """
        for name in ("directed", "reach", "half_life_days"):
            value = getattr(self, name)
            if "transitions" not in relations and value != ItemGraphSettings.model_fields[name].default:
                raise ValueError(f"{name} is a setting of transitions, got {name} = {value!r} without; leave it out")
        if "items" in relations and self.neighbours is None:
            raise ValueError("items by common users need a bound on neighbours, got none; set neighbours = 20")

    def names(self, relations: tuple[Relation, ...]) -> dict[str, str]:
        """Relation by relation its name, as parameters are named, and its kind, a key of `COLUMNS`."""
        found: dict[str, str] = {}
        for relation in relations:
            both = relation == "transitions" and self.directed
            found |= dict.fromkeys(("by_earlier", "by_later") if both else (f"by_{relation}",), relation)
        return found | {attribute_name(column): "attribute" for column in self.attributes}


def attribute_name(column: str) -> str:
    """The name of the relation that an attribute makes; a module's name has no dots."""
    return f"of_{column.replace('.', '/')}"


def edge_dim(settings: ItemGraphSettings, kind: str) -> int:
    """How many numbers attention knows of an edge; all edges of attributes are alike."""
    return 1 + len(COLUMNS[kind]) if settings.edge_features and kind != "attribute" else 0
