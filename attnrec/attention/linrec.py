"""LinRec: L2-normalised linear attention (Liu et al. 2023, doi:10.1145/3539618.3591717, arXiv:2411.01537).

elu with unit rows of the queries and unit columns of the keys replaces softmax, so that q (k' v) can be computed in
this order, in time linear in the length; the scale 1 / sqrt(C) is from the paper's code.
A column of keys spans the history, and its norm over the whole history would leak later events to earlier queries.
Here each query divides by the norms over its allowed keys: the paper's form without a mask, and the norms of the
history so far under causality (the paper and its code have no causal form).
Shapes: B users, H heads, Q queries, K keys, C channels per head, N blocks of S positions.
"""

import torch.nn.functional as F
from torch import Tensor

from attnrec.attention.blocks import to_blocks
from attnrec.attention.kernel import AttentionKernel, AttentionOutput
from attnrec.attention.masks import mask_of_keys
from attnrec.attention.scaled_dot import allowed_pairs

BLOCK = 64
"""Positions per block of the causal sum: S * S products within a block, a C * C matrix carried between blocks."""

SMALLEST_NORM = 1e-3
"""Lower bound of a column's norm, so that gradients stay finite where the norm is 0."""


class LinRec(AttentionKernel):
    """weights = norm(elu(q)) (elu(k) / |columns of elu(k)|)' / sqrt(C): signed, sum other than 1."""

    paper = "Liu et al. 2023, doi:10.1145/3539618.3591717"
    weights_kind = "signed"

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
        """See `kernel.AttentionKernel`. Linear in the length without weights if all queries have the same mask."""
        q, k = F.normalize(F.elu(q), dim=-1) / q.shape[-1] ** 0.5, F.elu(k)
        keys = mask_of_keys(allowed, k)
        if need_weights or (allowed is not None and keys is None):
            pairs = allowed_pairs(q, k, allowed=allowed, causal=causal).expand(*q.shape[:-1], k.shape[-2])
            weights = (q * inverse_norms(pairs.to(k.dtype) @ k.square()) @ k.mT) * pairs
            return AttentionOutput(weights @ v, weights if need_weights else None)
        if keys is not None:
            k = k.masked_fill(~keys[..., None], 0)
        if causal:
            return AttentionOutput(causal_product(q * inverse_norms(k.square().cumsum(-2)), k, v), None)
        return AttentionOutput(q * inverse_norms(k.square().sum(-2, keepdim=True)) @ (k.mT @ v), None)


def inverse_norms(squares: Tensor) -> Tensor:
    """Return 1 / sqrt(sum of squares), bounded by 1 / SMALLEST_NORM."""
    return squares.clamp(min=SMALLEST_NORM**2).rsqrt()


def causal_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the sum over j <= i of (q_i . k_j) v_j for every i, (B, H, L, C): dense within blocks, carried between."""
    queries, keys, values = (to_blocks(x, BLOCK) for x in (q, k, v))
    carried = (keys.mT @ values).cumsum(2)
    before = F.pad(carried, (0, 0, 0, 0, 1, 0))[:, :, :-1]
    within = (queries @ keys.mT).tril() @ values
    return (within + queries @ before).flatten(2, 3)[:, :, : q.shape[-2]]
