"""What attention may know of places: rotations of queries and keys, and learned biases by distance.

`RotaryPositions` is after Su et al. 2021 (arXiv:2104.09864, section 3.2), `RelativeBias` after T5 (Raffel et al.
2020, arXiv:1910.10683, section 2.1).
Shapes: B users, H heads, L positions, C channels per head.
"""

import math

import torch
from torch import Tensor, nn

BASE = 10_000
"""The slowest rotation's period is about 2 pi times this (Su et al. 2021, section 3.2.2)."""

N_BUCKETS = 32
"""Of distances, as in T5: half of them for each direction, and half of those for single distances."""


class RotaryPositions(nn.Module):
    """Rotate channels in pairs by angles that grow with the place, so that q . k knows the distance only.

    Args:
        channels: C, an even number.
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels of a head must be even to be rotated in pairs, got {channels}; change heads")
        pairs = torch.arange(0, channels, 2) / channels
        self.register_buffer("frequencies", BASE**-pairs, persistent=False)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate q and k, both (B, H, L, C), each at places 0 to L - 1."""
        return self.rotate(q), self.rotate(k)

    def rotate(self, x: Tensor, *, places: Tensor | None = None) -> Tensor:
        """(B, H, L, C) -> (B, H, L, C), at `places`, broadcastable to (B, H, L); default 0 to L - 1."""
        if places is None:
            places = torch.arange(x.shape[-2], device=x.device)
        angles = places[..., None] * self.frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class RelativeBias(nn.Module):
    """A learned number for each head and bucket of distance, to be added to scores.

    Args:
        heads: H.
        max_length: the longest sequence, over which the buckets are spread.
    """

    buckets: Tensor

    def __init__(self, heads: int, max_length: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(heads, N_BUCKETS))
        offsets = torch.arange(1 - max_length, max_length)
        self.register_buffer("buckets", distance_buckets(offsets, max_distance=max_length), persistent=False)

    def forward(self, length: int) -> Tensor:
        """The biases (H, L, L) of queries (rows) for keys (columns)."""
        return by_distance(self.bias.index_select(1, self.buckets), length)

    def of(self, offsets: Tensor) -> Tensor:
        """The biases (..., H, Q, K) of keys at `offsets` from the queries, broadcastable to that."""
        heads = torch.arange(len(self.bias), device=offsets.device)[:, None, None]
        return self.bias[heads, self.buckets[offsets + len(self.buckets) // 2]]


def offsets(n_queries: int, n_keys: int, allowed: Tensor) -> Tensor:
    """Key place less query place, broadcastable to (B, H, Q, K); a single query stands at the last key it may see.

    Args:
        n_queries: Q, as many as keys or 1.
        n_keys: K.
        allowed: what each query may attend to, broadcastable to (B, H, Q, K).
    """
    places = torch.arange(n_keys, device=allowed.device)
    if n_queries == n_keys:
        return places - places[:, None]
    if n_queries == 1:
        return places - (places * allowed).amax(-1, keepdim=True)
    raise ValueError(
        f"attention by distance needs one query, or as many as keys, got {n_queries} queries and {n_keys} keys; "
        "pass the whole history or its last state"
    )


def distance_buckets(offsets: Tensor, *, max_distance: int) -> Tensor:
    """T5's buckets of key place less query place: near distances alone, far ones by logarithm, later keys apart."""
    n_one_way, n_exact = N_BUCKETS // 2, N_BUCKETS // 4
    distances = offsets.abs()
    growth = math.log(max(max_distance, n_exact + 1) / n_exact)
    far = n_exact + ((distances.clamp(min=n_exact) / n_exact).log() / growth * (n_one_way - n_exact)).long()
    one_way = torch.where(distances < n_exact, distances, far.clamp(max=n_one_way - 1))
    return one_way + n_one_way * (offsets > 0)


def by_distance(values: Tensor, length: int) -> Tensor:
    """Lay out one value for each offset from a query to a key as a matrix.

    Args:
        values: (..., 2 M - 1) for offsets 1 - M to M - 1 of keys against queries; M is the longest length.
        length: L, at most M.

    Returns:
        (..., L, L), query by key.
    """
    middle = values.shape[-1] // 2
    return values[..., middle - length + 1 : middle + length].unfold(-1, length, 1).flip(-2)
