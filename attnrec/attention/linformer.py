"""Linformer: attention to a fixed number of projected keys and values (Wang et al. 2020, arXiv:2006.04768).

Time and memory are linear in the length. Each slot mixes the whole history, so there are neither weights per event nor
a causal form. All heads share the two projections ("headwise sharing", section 4).
Shapes: B users, H heads, Q queries, K keys, C channels per head, R slots.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.masks import mask_of_keys
from attnrec.config import Config


class LinformerSettings(Config):
    """Settings of `Linformer`. `rank`: number of slots that keys and values are projected to."""

    rank: int = Field(default=32, ge=1)


class Linformer(AttentionKernel):
    """softmax(q (E' k)' / sqrt(C)) F' v with learned E and F, (max_length, R)."""

    paper = "Wang et al. 2020, arXiv:2006.04768"
    weights_kind = None
    Settings = LinformerSettings

    def __init__(self, shape: KernelShape, settings: LinformerSettings | None = None) -> None:
        settings = settings or LinformerSettings()
        super().__init__(shape, settings)
        if shape.causal:
            raise ValueError(
                "linformer can't be causal, because its slots mix later events into earlier ones, got a causal shape; "
                "set attention = 'local_global' or 'linrec', or use a model that is not causal"
            )
        self.project_keys = nn.Parameter(torch.empty(shape.max_length, settings.rank))
        self.project_values = nn.Parameter(torch.empty(shape.max_length, settings.rank))
        for projection in (self.project_keys, self.project_values):
            nn.init.normal_(projection, std=shape.max_length**-0.5)  # slots start at the scale of keys and values

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
        """See `kernel.AttentionKernel`. `allowed` must be the same for all queries; masked keys are not projected."""
        self._check(k, allowed=allowed, causal=causal)
        if (keys := mask_of_keys(allowed, k)) is not None:
            k, v = (x.masked_fill(~keys[..., None], 0) for x in (k, v))
        length = k.shape[-2]
        slot_keys, slot_values = self.project_keys[:length].mT @ k, self.project_values[:length].mT @ v
        return AttentionOutput(F.scaled_dot_product_attention(q, slot_keys, slot_values), None)

    def _check(self, k: Tensor, *, allowed: Tensor | None, causal: bool) -> None:
        if causal:
            raise ValueError(
                "linformer can't be causal, because its slots mix later events into earlier ones, "
                "got causal=True; use local_global or linrec"
            )
        if allowed is not None and mask_of_keys(allowed, k) is None:
            raise ValueError(
                "linformer needs the same mask for all queries, got one that differs by query, "
                f"{tuple(allowed.shape)}; pass a mask of keys, (B, 1, 1, K)"
            )
        if k.shape[-2] > self.shape.max_length:
            raise ValueError(
                f"linformer projects at most max_length = {self.shape.max_length} keys, got {k.shape[-2]}; "
                "shorten the history or raise max_length"
            )
