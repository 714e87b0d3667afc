"""Adaptive span: every head learns how far back it looks (Sukhbaatar et al. 2019, arXiv:1905.07799).

Shapes: B users, H heads, Q queries, K keys, C channels per head. Distances in positions.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import Attended, AttentionKernel, KernelShape
from attnrec.attention.positions import offsets
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class AdaptiveSpanSettings(Config):
    """`ramp`: over how many positions beyond its span a head fades out (R in the paper, 32 there).

    `span_weight`: of the mean span, as a part of max_length, in the loss; above 0 short spans are preferred.
    """

    ramp: float = Field(default=32.0, gt=0)
    span_weight: float = Field(default=0.0, ge=0)


class AdaptiveSpan(AttentionKernel):
    """Shares m(distance) exp(q k' / sqrt(C)), normalised, with m(d) = clamp((R + z - d) / R, 0, 1) and z per head.

    z = max_length * sigmoid(span_logit), which starts at half of max_length: a span of everything would have no
    gradient but the penalty's. The paper cuts z at 0 and max_length instead, where a head can get stuck.
    """

    paper = "Sukhbaatar et al. 2019, arXiv:1905.07799"
    weights_are = "shares"
    Settings = AdaptiveSpanSettings
    settings: AdaptiveSpanSettings

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        self.span_logit = nn.Parameter(torch.zeros(shape.heads))

    def spans(self) -> Tensor:
        """How far each head looks before it fades, (H,), in positions."""
        return self.shape.max_length * torch.sigmoid(self.span_logit)

    def penalty(self) -> Tensor | None:
        """`span_weight` times the mean span as a part of max_length."""
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
    ) -> Attended:
        """See `kernel.AttentionKernel`. Query i stands at key i; a single query stands at the last key that it may see."""
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal)
        distance = offsets(q.shape[-2], k.shape[-2], pairs).abs()
        ramp = self.settings.ramp
        seen = ((ramp + self.spans()[:, None, None] - distance) / ramp).clamp(0, 1)
        # log m joins the score, so that a key far behind a head's span cannot take the others' shares away
        fading = seen.clamp(min=torch.finfo(seen.dtype).tiny).log()
        weights = masked_softmax(q @ k.mT * q.shape[-1] ** -0.5 + fading, pairs & (seen > 0))
        return Attended(weights @ v, weights if need_weights else None)
