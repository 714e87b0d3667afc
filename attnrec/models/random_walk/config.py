"""Settings of the walk."""

from typing import Literal

from pydantic import Field, model_validator

from attnrec.models.base import ModelConfig


class RandomWalkConfig(ModelConfig):
    """How a walk starts and where it can go.

    Attributes:
        relation: what joins items: "items" that the same users had, or "transitions", what followed what.
        ordered: whether the order of events counts, and each is asked for from those before it, or from all others;
            None: it does with transitions.
        hops: edges that a step goes over, at most: with 2 it also leads to neighbours of neighbours.
        neighbours: items that a step can lead to from an item, the K with the strongest edges.
        reach: of transitions, see `dataset.item_transitions`.
        half_life_days: of transitions: after so long a pair of events counts half in one half of an edge's weight, and
            an event in its item's popularity. None: it counts all the same, however long ago it was.
        window: where order counts, walks start at one of the last so many events; None: at any.
        dim: of item vectors, which shape attention and are no part of a score.
        heads, channels: of the attention of a step; each head has a share of each event.
        folds: in training, users are asked on graphs without them, of which there are so many.
        dropout: of item vectors.
    """

    kind: Literal["random_walk"] = "random_walk"
    relation: Literal["items", "transitions"] = "items"
    ordered: bool | None = None
    hops: Literal[1, 2] = 1
    neighbours: int = Field(default=100, gt=0)
    reach: int | None = Field(default=None, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, gt=0)
    dim: int = Field(default=16, gt=0)
    heads: int = Field(default=1, gt=0)
    channels: int = Field(default=16, gt=0)
    folds: int = Field(default=5, ge=2)
    dropout: float = Field(default=0.6, ge=0, lt=1)
    max_length: int = Field(default=200, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "RandomWalkConfig":
        if self.relation == "transitions" and self.ordered is False:
            raise ValueError("transitions are of events in order, got ordered = false; set relation = 'items'")
        for name in ("reach", "half_life_days"):
            if (value := getattr(self, name)) is not None and self.relation != "transitions":
                raise ValueError(f"{name} is a setting of transitions, got {name} = {value} without; leave it out")
        if self.window is not None and not self.next_item:
            raise ValueError(f"a window is of events in order, got window = {self.window} without; leave it out")
        return self

    @property
    def next_item(self) -> bool:
        """Whether the order of events counts."""
        return self.relation == "transitions" if self.ordered is None else self.ordered
