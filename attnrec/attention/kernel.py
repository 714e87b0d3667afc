"""The interface of all attention mechanisms.

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from attnrec.config import Config

WeightsKind = Literal["normalised", "signed"] | None


@dataclass(frozen=True, eq=False)
class AttentionOutput:
    """The result of attention.

    Attributes:
        output: (B, H, Q, C) from a kernel, (B, Q, dim) from `MultiHeadAttention`.
        weights: (B, H, Q, K), aligned with the keys; None unless requested and exact.
    """

    output: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class KernelShape:
    """The sizes a kernel is built for.

    Attributes:
        heads, channels: H and C.
        max_length: maximum number of keys; the size of position tables and of projections over the history.
        causal: whether queries must never attend to later keys; a kernel without a causal form raises.
    """

    heads: int
    channels: int
    max_length: int
    causal: bool = True


class AttentionKernel(nn.Module, ABC):
    """One attention mechanism, computed per head, without input and output projections.

    Attributes:
        paper: reference of the method.
        weights_kind: "normalised" (>= 0, sum <= 1), "signed" (any finite values), or None without exact weights.
        needs_times: whether it uses `times`.
        supports_single_query: whether one query alone (Q = 1, with its mask in `allowed`) gets the same result as
            among all queries.
        has_sampled: whether the last forward pass sampled keys, so that `surrogate_loss` must be added.
        Settings: the settings class, filled from `attention_settings` in the TOML.
    """

    paper: ClassVar[str]
    weights_kind: ClassVar[WeightsKind]
    needs_times: ClassVar[bool] = False
    supports_single_query: ClassVar[bool] = False
    Settings: ClassVar[type[Config]] = Config

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.settings = settings or self.Settings()

    def penalty(self) -> Tensor | None:
        """Return a regulariser that the model adds to its loss, a scalar; None for most kernels."""
        return None

    def surrogate_loss(self, losses: Tensor, *, real: Tensor) -> Tensor | None:
        """Return the term that the model adds to its loss after a forward pass that sampled keys; otherwise None.

        Args:
            losses: loss of each history, (B,), without a gradient.
            real: False at padding, (B, Q).

        Returns:
            A scalar.
        """
        del losses, real
        return None

    @property
    def has_sampled(self) -> bool:
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
    ) -> AttentionOutput:
        """Attend from queries to keys; a query without an allowed key gets zeros.

        Args:
            q: (B, H, Q, C).
            k: (B, H, K, C).
            v: (B, H, K, C).
            allowed: True = may attend, broadcastable to (B, H, Q, K); None allows all.
            causal: query i may attend to keys 0 to i only (Q == K); combined with `allowed`.
            need_weights: also return the weights.
            times: Unix seconds of the keys, (B, K); never of the event to be predicted.
        """
