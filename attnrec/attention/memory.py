"""Attention with learned memory slots in addition to the history (Sukhbaatar et al. 2019, arXiv:1907.01470, section 3).

All users share the slots: their keys compete with the keys of the history and their values add to the output. The
returned weights are those of the history, so they sum to less than 1, and weights @ v is the output without the slots.
Shapes: B users, H heads, Q queries, K keys, C channels per head, M slots.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.masks import attend_where
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class MemorySettings(Config):
    """Settings of `Memory`. `n_slots`: number of learned slots per head."""

    n_slots: int = Field(default=16, ge=1)


class Memory(AttentionKernel):
    """softmax(q [slots, k]' / sqrt(C)) [slot values, v]. A query without an allowed key in the history gets zeros."""

    paper = "Sukhbaatar et al. 2019, arXiv:1907.01470"
    weights_kind = "normalised"
    Settings = MemorySettings

    def __init__(self, shape: KernelShape, settings: MemorySettings | None = None) -> None:
        settings = settings or MemorySettings()
        super().__init__(shape, settings)
        self.n_slots = settings.n_slots
        self.slot_keys = nn.Parameter(torch.empty(shape.heads, self.n_slots, shape.channels))
        self.slot_values = nn.Parameter(torch.empty(shape.heads, self.n_slots, shape.channels))
        for slots in (self.slot_keys, self.slot_values):
            nn.init.normal_(slots, std=shape.channels**-0.5)

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
        """See `kernel.AttentionKernel`. Without weights one fused call attends to slots and history."""
        learned = (slots.expand(len(q), -1, -1, -1) for slots in (self.slot_keys, self.slot_values))
        keys, values = (torch.cat(parts, dim=-2) for parts in zip(learned, (k, v), strict=True))
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal)
        pairs = pairs.expand(torch.broadcast_shapes(pairs.shape, (1, k.shape[-2])))
        slots = pairs.any(-1, keepdim=True).expand(*pairs.shape[:-1], self.n_slots)
        mask = torch.cat([slots, pairs], dim=-1)
        if not need_weights:
            return AttentionOutput(attend_where(q, keys, values, mask), None)
        weights = masked_softmax(q @ keys.mT / q.shape[-1] ** 0.5, mask)
        return AttentionOutput(weights @ values, weights[..., self.n_slots :])
