"""Settings of graph attention over items, and the names of its relations.

A relation has one hop, from item to item, or two: from items to a user or an attribute value, and back to items.
"""

from typing import Literal

from pydantic import Field, model_validator

from attnrec.config import Config

Relation = Literal["bipartite", "items", "transitions"]

COLUMNS = {"bipartite": ("age_days",), "items": ("count",), "transitions": ("count", "gap_seconds"), "attribute": ()}
"""Edge features of each kind of relation, in addition to the weight; a column that a log does not have is 0."""


class ItemGraphSettings(Config):
    """How item vectors are enriched over a graph.

    Attributes:
        layer: a key of `attention.graph.GRAPH_LAYERS`; those that begin with "pyg_" are torch-geometric's own layers.
        layers: number of attention layers; each reads the output of the previous one. 0: item vectors stay unchanged.
        heads: number of attention heads.
        neighbours: each node keeps the K neighbours with the strongest edges; a user keeps K random items, sampled
            once, because its edges have no informative weights. None: all edges.
        sample: sample K neighbours by weight in each training step; scoring uses the strongest.
        edges_per_step: maximum number of edges of a hop, sampled anew in each training step. None: all.
        edge_features: whether attention reads edge features: weight, count, time between the events or age.
        dropout: dropout rate of the attention output.
        residual: how the attention output is added to the item's own vector: scaled by a "learned" scalar, 0 at
            initialisation, so that training starts from the model without a graph; unscaled ("sum"); or in place of
            the own vector ("none").
        combine: output with several layers: that of the "last", or the "mean" or "sum" of all.
        directed: whether transitions to earlier and to later items are two relations, each with its own attention;
            False: one relation of both.
        reach, half_life_days: settings of transitions, see `dataset.item_transitions`.
        attributes: category columns of the items table, each a relation that joins items with a common value.
    """

    layer: str = "gatv2"
    layers: int = Field(default=1, ge=0, le=3)
    heads: int = Field(default=4, gt=0)
    neighbours: int | None = Field(default=20, gt=0)
    sample: bool = False
    edges_per_step: int | None = Field(default=None, gt=0)
    edge_features: bool = False
    dropout: float = Field(default=0.1, ge=0, lt=1)
    residual: Literal["learned", "sum", "none"] = "learned"
    combine: Literal["last", "mean", "sum"] = "last"
    directed: bool = True
    reach: int = Field(default=1, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    attributes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_graph(self) -> "ItemGraphSettings":
        if self.sample and self.neighbours is None:
            raise ValueError("sample = true needs a number of neighbours, got none; set neighbours = 20")
        return self

    def check(self, relations: tuple[Relation, ...]) -> None:
        """Reject settings that do not apply to these relations.

        Raises:
            ValueError: with the name of the setting.
        """
        for name in ("directed", "reach", "half_life_days"):
            value = getattr(self, name)
            if "transitions" not in relations and value != ItemGraphSettings.model_fields[name].default:
                raise ValueError(
                    f"{name} is a setting of transitions, got {name} = {value!r} with relations {list(relations)}; "
                    "leave it out"
                )
        if "items" in relations and self.neighbours is None:
            raise ValueError("the relation 'items' needs a number of neighbours, got none; set neighbours = 20")

    def names(self, relations: tuple[Relation, ...]) -> dict[str, str]:
        """Return the name of each relation, as used in parameter names, and its kind, a key of `COLUMNS`."""
        names: dict[str, str] = {}
        for relation in relations:
            both = relation == "transitions" and self.directed
            names |= dict.fromkeys(("by_earlier", "by_later") if both else (f"by_{relation}",), relation)
        return names | {attribute_name(column): "attribute" for column in self.attributes}


def attribute_name(column: str) -> str:
    """Return the name of the relation of an attribute; module names must not contain dots."""
    return f"of_{column.replace('.', '/')}"


def edge_dim(settings: ItemGraphSettings, kind: str) -> int:
    """Return the number of edge features that attention reads; edges of attributes have none."""
    return 1 + len(COLUMNS[kind]) if settings.edge_features and kind != "attribute" else 0
