"""HSTU's block: pointwise projection, attention, gated transformation (Zhai et al. 2024, arXiv:2402.17152, eq. 1-3).

It has no position-wise network; the gate u takes its role.
Shapes: B users, L positions, D = H * C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel
from attnrec.attention.multi_head import from_heads, to_heads


class HSTUBlock(nn.Module):
    """x + W (norm(attention) * u), where u, v, q and k are SiLUs of projections of norm(x).

    Args:
        dim: D, width of the states.
        heads: number of heads.
        kernel: the attention mechanism, `HSTU` in the paper.
        dropout: dropout rate of the gated channels.
    """

    def __init__(self, dim: int, *, heads: int, kernel: AttentionKernel, dropout: float) -> None:
        super().__init__()
        if (kernel.shape.heads, kernel.shape.heads * kernel.shape.channels) != (heads, dim):
            raise ValueError(
                f"the kernel must have the block's heads and dim, got {kernel.shape.heads} heads of "
                f"{kernel.shape.channels} channels in a block with dim={dim} and heads={heads}; "
                "build it with channels = dim / heads"
            )
        self.heads = heads
        self.kernel = kernel
        self.norm_in = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 4 * dim)
        self.norm_attended = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *, causal: bool, allowed: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """Map states (B, L, D) to states (B, L, D); `allowed` and `times` as in `kernel.AttentionKernel`."""
        u, *vqk = F.silu(self.project_in(self.norm_in(x))).chunk(4, dim=-1)
        v, q, k = (to_heads(part, self.heads) for part in vqk)
        attended = from_heads(self.kernel(q, k, v, allowed=allowed, causal=causal, times=times).output)
        return x + self.project_out(self.dropout(self.norm_attended(attended) * u))
