"""Adaptive attention span: each head learns how far back it attends (Sukhbaatar et al. 2019, arXiv:1905.07799).

Shapes: B users, H heads, Q queries, K keys, C channels per head. Distances in positions.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.positions import offsets
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class AdaptiveSpanSettings(Config):
    """Settings of `AdaptiveSpan`.

    Attributes:
        ramp: number of positions beyond its span over which a head's weights fall to 0 (R in the paper, 32 there).
        span_weight: loss weight of the mean span as a fraction of max_length; above 0 it favours short spans.
    """

    ramp: float = Field(default=32.0, gt=0)
    span_weight: float = Field(default=0.0, ge=0)


class AdaptiveSpan(AttentionKernel):
    """Weights m(distance) exp(q k' / sqrt(C)), normalised, with m(d) = clamp((R + z - d) / R, 0, 1) and z per head.

    z = max_length * sigmoid(span_logit), which starts at half of max_length: a span of max_length would get a
    gradient from the penalty alone. The paper clamps z to 0 and max_length instead, where a head can get stuck.
    """

    paper = "Sukhbaatar et al. 2019, arXiv:1905.07799"
    weights_kind = "normalised"
    Settings = AdaptiveSpanSettings
    settings: AdaptiveSpanSettings

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        self.span_logit = nn.Parameter(torch.zeros(shape.heads))

    def spans(self) -> Tensor:
        """Return the span z of each head, (H,), in positions."""
        return self.shape.max_length * torch.sigmoid(self.span_logit)

    def penalty(self) -> Tensor | None:
        """Return `span_weight` times the mean span as a fraction of max_length, or None if the weight is 0."""
        weight = self.settings.span_weight
        return weight * torch.sigmoid(self.span_logit).mean() if weight else None

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
        """See `kernel.AttentionKernel`. Query i is at the position of key i, a single query at its last allowed key."""
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal)
        distance = offsets(q.shape[-2], k.shape[-2], pairs).abs()
        ramp = self.settings.ramp
        mask = ((ramp + self.spans()[:, None, None] - distance) / ramp).clamp(0, 1)
        # log m is added to the score, so that a key far beyond the span takes no weight from the others
        log_mask = mask.clamp(min=torch.finfo(mask.dtype).tiny).log()
        weights = masked_softmax(q @ k.mT * q.shape[-1] ** -0.5 + log_mask, pairs & (mask > 0))
        return AttentionOutput(weights @ v, weights if need_weights else None)
