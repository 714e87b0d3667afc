"""Multi-head self-attention around any kernel (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2).

Shapes: B users, L positions, H heads, C = dim / H channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput
from attnrec.attention.positions import RotaryPositions
from attnrec.layers import Linear


class MultiHeadAttention(nn.Module):
    """Project to heads, attend with `kernel`, project back.

    Args:
        dim: width of the states; a multiple of `heads`.
        heads: number of heads.
        kernel: the attention mechanism.
        rotary: apply rotary position embeddings to queries and keys.
    """

    def __init__(self, dim: int, *, heads: int, kernel: AttentionKernel, rotary: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(
                f"heads must divide dim, got heads={heads} and dim={dim}; choose dim as a multiple of heads"
            )
        self.heads = heads
        self.kernel = kernel
        self.rotary = RotaryPositions(dim // heads) if rotary else None
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        *,
        allowed: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
        times: Tensor | None = None,
    ) -> AttentionOutput:
        """Attend within each sequence of x (B, L, dim); weights are (B, H, L, L)."""
        q, k, v = (to_heads(part, self.heads) for part in self.project_in(x).chunk(3, dim=-1))
        if self.rotary is not None:
            q, k = self.rotary(q, k)
        attended = self.kernel(q, k, v, allowed=allowed, causal=causal, need_weights=need_weights, times=times)
        return AttentionOutput(self.project_out(from_heads(attended.output)), attended.weights)

    def at_last_position(self, x: Tensor, *, lengths: Tensor) -> Tensor:
        """Return the output of causal `forward` at the last real position alone, (B, 1, dim)."""
        width = x.shape[-1]
        weight, bias = self.project_in.weight, self.project_in.bias
        q = to_heads(F.linear(last_position(x, lengths), weight[:width], bias[:width]), self.heads)
        k, v = (to_heads(part, self.heads) for part in F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1))
        if self.rotary is not None:
            positions = (lengths - 1).clamp(min=0)[:, None, None]
            q, k = self.rotary.rotate(q, positions=positions), self.rotary.rotate(k)
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        return self.project_out(from_heads(self.kernel(q, k, v, allowed=real[:, None, None]).output))


def last_position(x: Tensor, lengths: Tensor) -> Tensor:
    """Select the last real position, (B, L, D) -> (B, 1, D); the first for an empty history."""
    return x.gather(1, (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[-1]))


def to_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, H * C) -> (B, H, L, C)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def from_heads(x: Tensor) -> Tensor:
    """(B, H, L, C) -> (B, L, H * C)."""
    return x.transpose(1, 2).flatten(2)
