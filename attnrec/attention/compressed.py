"""A compressed memory of the older history, after Compressive Transformers (Rae et al. 2020, arXiv:1911.05507).

Each block of consecutive events becomes one vector, by attention pooling with a learned query in the place of the
paper's fixed functions (section 3.2); it starts as one of them, the mean. Cost is linear in the number of events.
Blocks begin at the first event, so events that join later leave earlier vectors as they were.
Shapes: B users, L older events, M = ceil(L / block) vectors, D channels.
"""

import torch
from torch import Tensor, nn

from attnrec.attention.blocks import to_blocks
from attnrec.attention.scaled_dot import masked_softmax


class CompressedHistory(nn.Module):
    """Events older than the window -> one vector for each block of them, to attend to beside the window.

    Args:
        dim: D, width of the item vectors.
        block: events that become one vector.
    """

    def __init__(self, dim: int, *, block: int = 25) -> None:
        super().__init__()
        self.block = block
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, items: Tensor, *, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compress older events.

        Args:
            items: their item vectors, oldest first, (B, L, D), padded on the right.
            lengths: real events, (B,).

        Returns:
            memory: (B, M, D), each a convex combination of its block's events; zeros where a block is empty.
            allowed: (B, M), True where a block holds an event.
        """
        blocks = to_blocks(items, self.block)
        n_blocks = blocks.shape[1]
        places = torch.arange(n_blocks * self.block, device=items.device).view(n_blocks, self.block)
        real = places < lengths[:, None, None]
        scores = blocks @ self.query / items.shape[-1] ** 0.5
        shares = masked_softmax(scores, real)
        return (shares[..., None, :] @ blocks).squeeze(-2), real.any(-1)
