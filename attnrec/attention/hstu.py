"""HSTU's pointwise attention (Zhai et al. 2024, arXiv:2402.17152, equation 2): SiLU in the place of softmax.

The weights are counts of evidence rather than shares: they do not compete. The block around it is `hstu_block`.
The paper's code reads the time of the event to be predicted into each query; here only events of the history
have times, so a bias knows the gap between two of them and no more.
Shapes: B users, H heads, L positions (Q = K), C channels per head.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import Attended, AttentionKernel, KernelShape
from attnrec.attention.positions import by_distance
from attnrec.attention.scaled_dot import allowed_pairs
from attnrec.config import Config

BUCKET_WIDTH = 0.301
"""Of log(gap in seconds), from the paper's code: a bucket ends at 1.35 times the gap where it begins."""


class HSTUSettings(Config):
    """`n_buckets` is the number of buckets of time gaps; 128 of them reach any gap."""

    n_buckets: int = Field(default=128, ge=1)


class HSTU(AttentionKernel):
    """silu(q k' + position bias + time bias) / max_length; both biases are shared among heads, as in the paper's code.

    Without `times` the time bias is left out.
    """

    paper = "Zhai et al. 2024, arXiv:2402.17152"
    weights_are = "signed"
    needs_times = True
    Settings = HSTUSettings

    def __init__(self, shape: KernelShape, settings: HSTUSettings | None = None) -> None:
        settings = settings or HSTUSettings()
        super().__init__(shape, settings)
        self.position_bias = nn.Parameter(torch.empty(2 * shape.max_length - 1))
        self.time_bias = nn.Parameter(torch.empty(settings.n_buckets))
        for bias in (self.position_bias, self.time_bias):
            nn.init.normal_(bias, std=0.02)

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
        """See `kernel.AttentionKernel`; there must be a query for each key, and no more than max_length of them."""
        length = q.shape[-2]
        if length != k.shape[-2] or length > self.shape.max_length:
            raise ValueError(
                f"hstu attends within one sequence of up to max_length = {self.shape.max_length} events, "
                f"got {length} queries and {k.shape[-2]} keys; cut the history or build it longer"
            )
        scores = q @ k.mT + by_distance(self.position_bias, length)
        if times is not None:
            scores = scores + self._of_gaps(times)[:, None]
        hidden = ~allowed_pairs(q, k, allowed=allowed, causal=causal)
        weights = (F.silu(scores) / self.shape.max_length).masked_fill(hidden, 0)
        return Attended(weights @ v, weights if need_weights else None)

    def _of_gaps(self, times: Tensor) -> Tensor:
        """The learned bias of each pair's gap in time: (B, L) seconds -> (B, L, L)."""
        buckets = time_buckets(times[:, :, None] - times[:, None], n_buckets=len(self.time_bias))
        # flat, for the backward pass: 64 x 200 x 200 gaps take 51 ms, by indexing 71, by an embedding 322
        return self.time_bias.index_select(0, buckets.flatten()).view(buckets.shape)


def time_buckets(gaps: Tensor, *, n_buckets: int) -> Tensor:
    """Gaps in seconds, of either sign -> buckets by their logarithm, from 0 for up to a second."""
    return (gaps.abs().clamp(min=1).log() / BUCKET_WIDTH).long().clamp(max=n_buckets - 1)
