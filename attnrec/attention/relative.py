"""Scaled dot-product with T5's learned bias by distance (Raffel et al. 2020, arXiv:1910.10683, section 2.1).

In T5 all layers share one table of biases and distances from 128 on are one; here each layer has its own, and the
buckets reach as far as the longest history.
Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from torch import Tensor

from attnrec.attention.kernel import Attended, AttentionKernel, KernelShape
from attnrec.attention.masks import attend_where
from attnrec.attention.positions import RelativeBias, offsets
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class RelativeDot(AttentionKernel):
    """softmax(q k' / sqrt(C) + b) v with one learned b for each head and bucket of distance, 0 at the start."""

    paper = "Raffel et al. 2020, arXiv:1910.10683"
    weights_are = "shares"
    one_query = True

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        self.by_distance = RelativeBias(shape.heads, shape.max_length)

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
        bias = self._biases(q.shape[-2], k.shape[-2], pairs)
        if not need_weights:
            return Attended(attend_where(q, k, v, pairs, bias=bias), None)
        weights = masked_softmax(q @ k.mT * q.shape[-1] ** -0.5 + bias, pairs)
        return Attended(weights @ v, weights)

    def _biases(self, n_queries: int, n_keys: int, allowed: Tensor) -> Tensor:
        """Of queries for keys, broadcastable to (B, H, Q, K)."""
        if n_keys > self.shape.max_length:
            raise ValueError(
                f"relative learned distances within max_length = {self.shape.max_length} keys, got {n_keys}; "
                "cut the history or build it longer"
            )
        if n_queries == n_keys:
            return self.by_distance(n_keys)
        return self.by_distance.of(offsets(n_queries, n_keys, allowed))
