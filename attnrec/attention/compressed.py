"""Compressed memory of old events, after Compressive Transformers (Rae et al. 2020, arXiv:1911.05507).

Each block of consecutive events becomes one vector by attention pooling with a learned query; the paper uses fixed
functions (section 3.2), and the initial query equals one of them, the mean. Cost is linear in the number of events.
Blocks start at the first event, so a new event never changes the vectors of earlier blocks.
Shapes: B users, L events, M = ceil(L / block) vectors, D channels.
"""

import torch
from torch import Tensor, nn

from attnrec.attention.blocks import to_blocks
from attnrec.attention.scaled_dot import masked_softmax


class HistoryCompressor(nn.Module):
    """Compress the events before the window to one vector per block, which the encoder attends to as well.

    Args:
        dim: D, width of the item vectors.
        block: number of events per vector.
    """

    def __init__(self, dim: int, *, block: int = 25) -> None:
        super().__init__()
        self.block = block
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, items: Tensor, *, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compress events.

        Args:
            items: item vectors of the events, oldest first, padded on the right, (B, L, D).
            lengths: number of events, (B,).

        Returns:
            memory: (B, M, D), each vector a convex combination of its block's events; zeros for an empty block.
            allowed: (B, M), False for an empty block.
        """
        blocks = to_blocks(items, self.block)
        n_blocks = blocks.shape[1]
        positions = torch.arange(n_blocks * self.block, device=items.device).view(n_blocks, self.block)
        real = positions < lengths[:, None, None]
        scores = blocks @ self.query / items.shape[-1] ** 0.5
        weights = masked_softmax(scores, real)
        return (weights[..., None, :] @ blocks).squeeze(-2), real.any(-1)
