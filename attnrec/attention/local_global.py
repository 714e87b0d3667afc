"""Local and global attention: Longformer's pattern (Beltagy et al. 2020, arXiv:2004.05150, section 3.1).

A window of nearby keys and the first few positions, which all queries may attend to. Without weights, time and memory
are linear in the length: each block of queries attends to its band of keys and to the global keys.
Shapes: B users, H heads, L positions (Q = K), C channels per head, G global positions,
N blocks of S queries, W keys in a block's band.
"""

import torch
from pydantic import Field
from torch import Tensor

from attnrec.attention.blocks import to_bands, to_blocks
from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.masks import attend_where, mask_of_keys
from attnrec.attention.scaled_dot import allowed_pairs, attend
from attnrec.config import Config

MAX_DENSE_WINDOWS = 8
"""Sequences of at most this many windows are faster with one masked call of torch's fused kernel. Forward and backward,
window 64, one thread, best of 7: L = 400 with 32 users 82 ms against 115 in bands, L = 1000 with 16 users 258 against
144."""


class LocalGlobalSettings(Config):
    """Settings of `LocalGlobal`.

    Attributes:
        window: number of keys per query: with a causal mask the query's position and those before it, otherwise its
            position and `window` // 2 on each side.
        n_global: number of first positions that every query may attend to (with a causal mask only later queries);
            without a causal mask they also attend to all positions.
    """

    window: int = Field(default=64, ge=1)
    n_global: int = Field(default=4, ge=0)


class LocalGlobal(AttentionKernel):
    """Scaled dot-product attention to nearby keys and to the first keys of the sequence."""

    paper = "Beltagy et al. 2020, arXiv:2004.05150"
    weights_kind = "normalised"
    Settings = LocalGlobalSettings

    def __init__(self, shape: KernelShape, settings: LocalGlobalSettings | None = None) -> None:
        settings = settings or LocalGlobalSettings()
        super().__init__(shape, settings)
        self.window = settings.window
        self.n_global = settings.n_global

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
        length = q.shape[-2]
        if length != k.shape[-2]:
            raise ValueError(
                f"local_global needs as many queries as keys, got {length} queries and {k.shape[-2]} keys; "
                "use scaled_dot for other queries"
            )
        keys = mask_of_keys(allowed, k)
        same_mask = allowed is None or keys is not None
        if not need_weights and same_mask and length > MAX_DENSE_WINDOWS * self.window:
            return AttentionOutput(self.banded(q, k, v, keys=keys, causal=causal), None)
        positions = torch.arange(length, device=q.device)
        pattern = allowed_pairs(q, k, allowed=allowed, causal=causal) & self.pattern(
            positions[:, None], positions, causal
        )
        if need_weights:
            return attend(q, k, v, scale=q.shape[-1] ** -0.5, allowed=pattern, causal=False, need_weights=True)
        return AttentionOutput(attend_where(q, k, v, pattern), None)

    def block(self, causal: bool) -> int:
        """Return the number of queries per block: the window's extent to one side."""
        return self.window if causal else max(1, self.window // 2)

    def pattern(self, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """Return which key positions each query position attends to, before `allowed` and the causal mask."""
        is_global = (key if causal else torch.minimum(query, key)) < self.n_global
        return self.is_near(query, key, causal) | is_global

    def is_near(self, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """Return whether `key` is in the window of `query`."""
        gap = query - key
        return (gap >= 0) & (gap < self.window) if causal else gap.abs() <= self.window // 2

    def banded(self, q: Tensor, k: Tensor, v: Tensor, *, keys: Tensor | None, causal: bool) -> Tensor:
        """Compute the output (B, H, L, C) in blocks; `keys` (B, H, L) is False at masked keys."""
        size, length = self.block(causal), q.shape[-2]

        def visible_to_blocks(x: Tensor) -> Tensor:
            bands = to_bands(x, size, after=0 if causal else 1)
            first = x[..., None, : self.n_global, :].expand(*bands.shape[:-2], -1, -1)
            return torch.cat([first, bands], dim=-2)

        mask = self.band_pattern(length, causal, device=q.device)
        if keys is not None:
            mask = (mask & visible_to_blocks(keys[..., None]).mT).expand(*q.shape[:2], -1, -1, -1).flatten(0, 1)
        # blocks replace the head axis, so that one mask serves all users without padding
        queries, k_visible, v_visible = (
            x.flatten(0, 1) for x in (to_blocks(q, size), visible_to_blocks(k), visible_to_blocks(v))
        )
        output = (
            attend_where(queries, k_visible, v_visible, mask).unflatten(0, q.shape[:2]).flatten(2, 3)[:, :, :length]
        )
        if causal or not self.n_global:
            return output
        padding = None if keys is None else keys[..., None, :]
        first = q[:, :, : self.n_global]
        scale = q.shape[-1] ** -0.5
        at_first = attend(first, k, v, scale=scale, allowed=padding, causal=False, need_weights=False).output
        return torch.cat([at_first, output[:, :, self.n_global :]], dim=2)

    def band_pattern(self, length: int, causal: bool, *, device: torch.device) -> Tensor:
        """Return each block's mask over global keys and band, (N, S, G + W); no key is in both."""
        size = self.block(causal)
        queries = torch.arange(length + -length % size, device=device).view(-1, size, 1)
        keys = queries[:, :1] + torch.arange(-size, size if causal else 2 * size, device=device)
        near = self.is_near(queries, keys, causal) & (keys >= self.n_global) & (keys < length)
        first = torch.arange(min(self.n_global, length), device=device)
        visible = first <= (queries if causal else torch.full_like(queries, length))
        return torch.cat([visible, near], dim=-1)
