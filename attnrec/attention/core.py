"""What every attention mechanism returns and takes: the one interface of this shelf.

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

WeightsAre = Literal["shares", "signed"] | None


@dataclass(frozen=True, eq=False)
class Attended:
    """What attention gives, always of this type.

    Attributes:
        output: (B, H, Q, C) from a core, (B, Q, dim) from `MultiHeadAttention`.
        weights: (B, H, Q, K), aligned with the keys passed in; None unless asked for and exact.
    """

    output: Tensor
    weights: Tensor | None


class Core(Protocol):
    """One mechanism: a module without head handling.

    `weights_are` says what its weights mean: "shares" (>= 0, sum <= 1), "signed" (finite, aligned), or None.
    """

    weights_are: WeightsAre

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, allowed: Tensor | None, causal: bool, need_weights: bool
    ) -> Attended:
        """Attend from queries to keys.

        Args:
            q: (B, H, Q, C).
            k: (B, H, K, C).
            v: (B, H, K, C).
            allowed: True = may attend, broadcastable to (B, H, Q, K); None allows all.
            causal: query i may attend to keys 0 to i only (Q == K); joined with `allowed`.
            need_weights: also return the weights.
        """
        ...
