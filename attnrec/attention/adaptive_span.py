"""Adaptive span: every head learns how far back it looks (Sukhbaatar et al. 2019, arXiv:1905.07799).

Shapes: B users, H heads, Q queries, K keys, C channels per head. Distances in positions.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.core import Attended, Core, CoreShape
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class AdaptiveSpanSettings(Config):
    """`ramp`: over how many positions beyond its span a head fades out (R in the paper, 32 there)."""

    ramp: float = Field(default=32.0, gt=0)


class AdaptiveSpan(Core):
    """Shares m(distance) exp(q k' / sqrt(C)), normalised, with m(d) = clamp((R + z - d) / R, 0, 1) and z per head.

    z = max_length * sigmoid(span_logit), which starts at half of max_length: a span of everything would have no
    gradient but the penalty's. The paper cuts z at 0 and max_length instead, where a head can get stuck.
    """

    paper = "Sukhbaatar et al. 2019, arXiv:1905.07799"
    weights_are = "shares"
    Settings = AdaptiveSpanSettings
    settings: AdaptiveSpanSettings

    def __init__(self, shape: CoreShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        self.span_logit = nn.Parameter(torch.zeros(shape.heads))

    def spans(self) -> Tensor:
        """How far each head looks before it fades, (H,), in positions."""
        return self.shape.max_length * torch.sigmoid(self.span_logit)

    def span_penalty(self) -> Tensor:
        """The mean span as a part of max_length, 0 to 1: a multiple of it may be added to the loss."""
        return torch.sigmoid(self.span_logit).mean()

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
        """See `core.Core`. Query i stands at key i; a single query stands at the last key that it may see."""
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal)
        distance = _distances(q.shape[-2], k.shape[-2], pairs)
        ramp = self.settings.ramp
        seen = ((ramp + self.spans()[:, None, None] - distance) / ramp).clamp(0, 1)
        # log m joins the score, so that a key far behind a head's span cannot take the others' shares away
        fading = seen.clamp(min=torch.finfo(seen.dtype).tiny).log()
        weights = masked_softmax(q @ k.mT * q.shape[-1] ** -0.5 + fading, pairs & (seen > 0))
        return Attended(weights @ v, weights if need_weights else None)


def _distances(n_queries: int, n_keys: int, allowed: Tensor) -> Tensor:
    """Positions between query and key, broadcastable to (B, H, Q, K)."""
    places = torch.arange(n_keys, device=allowed.device)
    if n_queries == n_keys:
        return (places[:, None] - places).abs()
    if n_queries == 1:
        return ((places * allowed).amax(-1, keepdim=True) - places).abs()
    raise ValueError(
        f"adaptive_span needs one query, or as many as keys, got {n_queries} queries and {n_keys} keys; "
        "pass the whole history or its last state"
    )
