"""Settings of the random walk."""

from typing import Literal

from pydantic import Field, model_validator

from attnrec.models.base import ModelConfig


class RandomWalkConfig(ModelConfig):
    """Settings of the graph, the attention and the training of a random walk.

    Attributes:
        relation: edges of the item graph: "items" joins items with common users, "transitions" consecutive events.
        ordered: whether each event is predicted from the events before it, or from all other events of the user.
            None: ordered for transitions, unordered for items.
        hops: edges per step, at most: with 2 a step can also lead to a neighbour of a neighbour.
        neighbours: each item keeps the K neighbours with the strongest edges.
        reach: transitions join events at most `reach` positions apart (see `dataset.item_transitions`).
        half_life_days: for transitions: in one of the two terms of an edge weight, a pair of events of this age counts
            half; the same holds for an event in the popularity of its item. None: age does not matter.
        window: with an order, walks start at one of the last `window` events; None: at any event.
        dim: width of the item vectors, which are inputs of the attention and not part of a score.
        heads, channels: heads and channels per head of the step attention; the start attention has a weight for each
            event and head.
        folds: in training each user is scored on a graph without them; there is one such graph per fold of users.
        dropout: dropout rate of the item vectors.
    """

    kind: str = "random_walk"
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
            raise ValueError(
                "relation = 'transitions' needs ordered events, got ordered = false; set relation = 'items'"
            )
        for name in ("reach", "half_life_days"):
            if (value := getattr(self, name)) is not None and self.relation != "transitions":
                raise ValueError(
                    f"{name} is a setting of relation = 'transitions', got {name} = {value} with "
                    f"relation = {self.relation!r}; leave it out"
                )
        if self.window is not None and not self.next_item:
            raise ValueError(f"window needs ordered events, got window = {self.window}; leave it out or set ordered")
        return self

    @property
    def next_item(self) -> bool:
        """Whether the model predicts each event from the events before it, instead of from all others."""
        return self.relation == "transitions" if self.ordered is None else self.ordered
