"""HSTU's pointwise attention (Zhai et al. 2024, arXiv:2402.17152, equation 2): SiLU instead of softmax.

The weights are not normalised, so keys do not compete. See `hstu_block` for the block around it.
The paper's code gives each query the time of the event to be predicted; here only events of the history have times,
and the time bias depends on the gap between two of them.
Shapes: B users, H heads, L positions (Q = K), C channels per head.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.positions import by_distance
from attnrec.attention.scaled_dot import allowed_pairs
from attnrec.config import Config

BUCKET_WIDTH = 0.301
"""Width of a bucket of log(gap in seconds), from the paper's code: each bucket ends at 1.35 times its start."""


class HSTUSettings(Config):
    """Settings of `HSTU`. `n_buckets`: number of buckets of time gaps; 128 cover any gap."""

    n_buckets: int = Field(default=128, ge=1)


class HSTU(AttentionKernel):
    """silu(q k' + position bias + time bias) / max_length; all heads share both biases, as in the paper's code.

    Without `times` there is no time bias.
    """

    paper = "Zhai et al. 2024, arXiv:2402.17152"
    weights_kind = "signed"
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
    ) -> AttentionOutput:
        """See `kernel.AttentionKernel`; Q and K must be equal and at most max_length."""
        length = q.shape[-2]
        if length != k.shape[-2] or length > self.shape.max_length:
            raise ValueError(
                f"hstu needs as many queries as keys and at most max_length = {self.shape.max_length} of them, "
                f"got {length} queries and {k.shape[-2]} keys; shorten the history or raise max_length"
            )
        scores = q @ k.mT + by_distance(self.position_bias, length)
        if times is not None:
            scores = scores + self._time_biases(times)[:, None]
        hidden = ~allowed_pairs(q, k, allowed=allowed, causal=causal)
        weights = (F.silu(scores) / self.shape.max_length).masked_fill(hidden, 0)
        return AttentionOutput(weights @ v, weights if need_weights else None)

    def _time_biases(self, times: Tensor) -> Tensor:
        """Return the learned bias for the time gap of each pair: (B, L) seconds -> (B, L, L)."""
        buckets = time_buckets(times[:, :, None] - times[:, None], n_buckets=len(self.time_bias))
        # flat, for a faster backward pass: 64 x 200 x 200 gaps take 51 ms, by indexing 71, by an embedding 322
        return self.time_bias.index_select(0, buckets.flatten()).view(buckets.shape)


def time_buckets(gaps: Tensor, *, n_buckets: int) -> Tensor:
    """Return logarithmic buckets of time gaps in seconds, of either sign; bucket 0 holds gaps up to 1 s."""
    return (gaps.abs().clamp(min=1).log() / BUCKET_WIDTH).long().clamp(max=n_buckets - 1)
