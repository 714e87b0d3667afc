"""What every attribution method is: a function of one type, where it comes from, and what it needs of a model.

Shapes: B users, L positions, n items asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attnrec.models import Model


@dataclass(frozen=True)
class Need:
    """What a model must have.

    Attributes:
        words: after "needs", for errors and tables.
        met_by: whether a model has it.
    """

    words: str
    met_by: Callable[[Model], bool]


ANY_MODEL = Need("any model", lambda model: True)


@dataclass(frozen=True)
class Method:
    """One way to say what each event of a history has to do with a recommended item.

    Attributes:
        function: (model, batch, items (B, n), *, seed=0) -> (B, L, n), 0 at padding; larger speaks more for the item.
        source: where it comes from.
        needs: what the model must have.
        exact: whether it is how the score was made: the model's own sum, without drawing and without approximation.
        control: whether it looks at no score, and is there to be beaten.
        takes_counts: whether `function` also takes `counts`, the events of each item in training, (N,).
    """

    function: Callable[..., Tensor]
    source: str
    needs: Need = ANY_MODEL
    exact: bool = False
    control: bool = False
    takes_counts: bool = False

    def works_for(self, model: Model) -> bool:
        """Whether the model has what is needed."""
        return self.needs.met_by(model)


def same_for_all(items: Tensor, values: Tensor) -> Tensor:
    """What events have to do with any item, (B, L), for items (B, n): (B, L, n)."""
    return values[..., None].repeat(1, 1, items.shape[1])
