"""Positions for attention: rotary embeddings of queries and keys, and learned biases by distance.

`RotaryPositions` is after Su et al. 2021 (arXiv:2104.09864, section 3.2), `RelativeBias` after T5 (Raffel et al.
2020, arXiv:1910.10683, section 2.1).
Shapes: B users, H heads, L positions, C channels per head.
"""

import math

import torch
from torch import Tensor, nn

BASE = 10_000
"""The period of the slowest rotation is about 2 pi times this (Su et al. 2021, section 3.2.2)."""

N_BUCKETS = 32
"""Number of distance buckets, as in T5: half per direction, of which half hold a single distance each."""


class RotaryPositions(nn.Module):
    """Rotate pairs of channels by angles proportional to the position, so that q . k depends on the distance alone.

    Args:
        channels: C, an even number.
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(
                f"rotary positions need an even number of channels per head, got {channels}; change dim or heads"
            )
        pairs = torch.arange(0, channels, 2) / channels
        self.register_buffer("frequencies", BASE**-pairs, persistent=False)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate q and k, both (B, H, L, C), at positions 0 to L - 1."""
        return self.rotate(q), self.rotate(k)

    def rotate(self, x: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Rotate x (B, H, L, C) at `positions`, broadcastable to (B, H, L); None for 0 to L - 1."""
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)
        angles = positions[..., None] * self.frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class RelativeBias(nn.Module):
    """A learned bias for each head and distance bucket, to be added to the scores.

    Args:
        heads: H.
        max_length: the longest sequence, the range of the buckets.
    """

    buckets: Tensor

    def __init__(self, heads: int, max_length: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(heads, N_BUCKETS))
        offsets = torch.arange(1 - max_length, max_length)
        self.register_buffer("buckets", distance_buckets(offsets, max_distance=max_length), persistent=False)

    def forward(self, length: int) -> Tensor:
        """Return the biases of all pairs, (H, L, L), query by key."""
        return by_distance(self.bias.index_select(1, self.buckets), length)

    def at(self, offsets: Tensor) -> Tensor:
        """Return the biases (..., H, Q, K) for `offsets`, broadcastable to this shape."""
        heads = torch.arange(len(self.bias), device=offsets.device)[:, None, None]
        return self.bias[heads, self.buckets[offsets + len(self.buckets) // 2]]


def offsets(n_queries: int, n_keys: int, allowed: Tensor) -> Tensor:
    """Return key minus query positions, broadcastable to (B, H, Q, K); a lone query is at its last allowed key.

    Args:
        n_queries: Q, equal to K or 1.
        n_keys: K.
        allowed: True = may attend, broadcastable to (B, H, Q, K).
    """
    positions = torch.arange(n_keys, device=allowed.device)
    if n_queries == n_keys:
        return positions - positions[:, None]
    if n_queries == 1:
        return positions - (positions * allowed).amax(-1, keepdim=True)
    raise ValueError(
        f"attention by distance needs one query, or as many as keys, got {n_queries} queries and {n_keys} keys; "
        "pass the whole history or its last state"
    )


def distance_buckets(offsets: Tensor, *, max_distance: int) -> Tensor:
    """Return T5's buckets of offsets: one per near distance, logarithmic for far ones, separate for later keys."""
    n_one_way, n_exact = N_BUCKETS // 2, N_BUCKETS // 4
    distances = offsets.abs()
    growth = math.log(max(max_distance, n_exact + 1) / n_exact)
    far = n_exact + ((distances.clamp(min=n_exact) / n_exact).log() / growth * (n_one_way - n_exact)).long()
    one_way = torch.where(distances < n_exact, distances, far.clamp(max=n_one_way - 1))
    return one_way + n_one_way * (offsets > 0)


def by_distance(values: Tensor, length: int) -> Tensor:
    """Expand one value per offset to a matrix of queries and keys.

    Args:
        values: (..., 2 M - 1), for key minus query positions 1 - M to M - 1, where M is the maximum length.
        length: L, at most M.

    Returns:
        (..., L, L), query by key.
    """
    middle = values.shape[-1] // 2
    return values[..., middle - length + 1 : middle + length].unfold(-1, length, 1).flip(-2)
