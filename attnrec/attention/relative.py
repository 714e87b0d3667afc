"""Scaled dot-product attention with T5's learned bias by distance (Raffel et al. 2020, arXiv:1910.10683, section 2.1).

In T5 all layers share one table of biases and all distances from 128 on share a bucket; here each layer has its own
table, and the buckets cover max_length.
Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from torch import Tensor

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.masks import attend_where
from attnrec.attention.positions import RelativeBias, offsets
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class RelativeDot(AttentionKernel):
    """softmax(q k' / sqrt(C) + b) v with one learned b per head and distance bucket, initially 0."""

    paper = "Raffel et al. 2020, arXiv:1910.10683"
    weights_kind = "normalised"
    supports_single_query = True

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
    ) -> AttentionOutput:
        """See `kernel.AttentionKernel`. Query i is at the position of key i, a single query at its last allowed key."""
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal)
        bias = self._biases(q.shape[-2], k.shape[-2], pairs)
        if not need_weights:
            return AttentionOutput(attend_where(q, k, v, pairs, bias=bias), None)
        weights = masked_softmax(q @ k.mT * q.shape[-1] ** -0.5 + bias, pairs)
        return AttentionOutput(weights @ v, weights)

    def _biases(self, n_queries: int, n_keys: int, allowed: Tensor) -> Tensor:
        """Return the biases, broadcastable to (B, H, Q, K)."""
        if n_keys > self.shape.max_length:
            raise ValueError(
                f"relative has biases for at most max_length = {self.shape.max_length} keys, got {n_keys}; "
                "shorten the history or raise max_length"
            )
        if n_queries == n_keys:
            return self.by_distance(n_keys)
        return self.by_distance.at(offsets(n_queries, n_keys, allowed))
