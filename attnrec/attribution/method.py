"""The type of an attribution method: its function, its source, and what it requires of a model.

Shapes: B users, L positions, n requested items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attnrec.dataset import Batch
from attnrec.models import Model


@dataclass(frozen=True)
class Requirement:
    """What a method requires of a model.

    Attributes:
        description: completes "<method> needs ...", in errors and tables.
        is_met: whether a model meets it; a test of the optional capabilities of `Model`, not of model classes.
    """

    description: str
    is_met: Callable[[Model], bool]


ANY_MODEL = Requirement("any model", lambda model: True)


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        function: (model, batch, items (B, n), *, seed=0) -> (B, L, n); higher means that the event increases the
            score more; 0 at padding.
        source: paper, "this project" or "control".
        requirement: what the model must support.
        exact: whether it is the model's own decomposition of the score, without sampling or approximation.
        control: whether it is a baseline that does not use the scores.
        takes_counts: whether `function` also takes `counts`, the training events of each item row, (N,).
    """

    function: Callable[..., Tensor]
    source: str
    requirement: Requirement = ANY_MODEL
    exact: bool = False
    control: bool = False
    takes_counts: bool = False

    @torch.no_grad()
    def works_for(self, model: Model) -> bool:
        """Return whether the model meets the requirement."""
        return self.requirement.is_met(model)


def one_event(model: Model) -> Batch:
    """Return a history of one event: requirements check what the optional capabilities of a model return for it."""
    one = torch.ones(1, 1, dtype=torch.long, device=model.rankable.device)
    return Batch(one, one[0], one, weights=one.float(), events=one)


def repeat_for_items(items: Tensor, values: Tensor) -> Tensor:
    """Repeat values that do not depend on the item, (B, L), for items (B, n): (B, L, n)."""
    return values[..., None].repeat(1, 1, items.shape[1])
