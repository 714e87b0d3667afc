"""What every attention mechanism returns and takes: the one interface of this shelf.

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from attnrec.config import Config

WeightsAre = Literal["shares", "signed"] | None


@dataclass(frozen=True, eq=False)
class Attended:
    """What attention gives, always of this type.

    Attributes:
        output: (B, H, Q, C) from a kernel, (B, Q, dim) from `MultiHeadAttention`.
        weights: (B, H, Q, K), aligned with the keys passed in; None unless asked for and exact.
    """

    output: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class KernelShape:
    """What a kernel is built for.

    Attributes:
        heads, channels: H and C.
        max_length: most keys there will be; sizes tables of positions and projections of the history.
        causal: whether queries must never see later keys; a kernel that can't keep that refuses.
    """

    heads: int
    channels: int
    max_length: int
    causal: bool = True


class AttentionKernel(nn.Module, ABC):
    """One mechanism: a module between heads, without projections of its own unless they are the mechanism.

    Attributes:
        paper: where it comes from.
        weights_are: "shares" (>= 0, sum <= 1), "signed" (finite, aligned), or None: there are no exact weights.
        needs_times: whether it looks at `times`.
        one_query: whether a query asked alone (Q = 1, its keys `allowed`) gets what it gets among all.
        Settings: what a person may set, from `attention_settings` in the TOML.
    """

    paper: ClassVar[str]
    weights_are: ClassVar[WeightsAre]
    needs_times: ClassVar[bool] = False
    one_query: ClassVar[bool] = False
    Settings: ClassVar[type[Config]] = Config

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.settings = settings or self.Settings()

    def penalty(self) -> Tensor | None:
        """What a model adds to its loss for this kernel, whatever the data: a scalar, or None for most."""
        return None

    def surrogate(self, losses: Tensor, *, real: Tensor) -> Tensor | None:
        """What a model adds to its loss after a forward pass in which this kernel drew: a scalar, or None if it did not.

        Args:
            losses: of each history, (B,), without a gradient.
            real: True at real positions, (B, Q).
        """
        del losses, real
        return None

    @property
    def draws(self) -> bool:
        """Whether the last forward pass drew, so that `surrogate` is to be asked."""
        return False

    @abstractmethod
    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        allowed: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
        times: Tensor | None = None,
    ) -> Attended:
        """Attend from queries to keys; a query that may attend to nothing gets zeros.

        Args:
            q: (B, H, Q, C).
            k: (B, H, K, C).
            v: (B, H, K, C).
            allowed: True = may attend, broadcastable to (B, H, Q, K); None allows all.
            causal: query i may attend to keys 0 to i only (Q == K); joined with `allowed`.
            need_weights: also return the weights.
            times: Unix seconds of the keys, (B, K); of the history only, never of what is predicted.
        """
