"""Attention pooling with one value per event: the readout whose scores are sums over the history.

Weights may look at everything (contextual states); the value of an event looks at its own item alone, so
`user = sum_j weight_j * value_j` splits exactly. After attention pooling as in NAIS (He et al. 2018,
arXiv:1809.07053) with contextual weights; additivity as a constraint is this project's.

Shapes: B users, L positions, H heads, C = dim / H channels per head.
"""

import torch
from torch import Tensor, nn

from attnrec.attention.kernel import Attended, KernelShape
from attnrec.attention.multi_head import from_heads, last_position, to_heads
from attnrec.attention.scaled_dot import ScaledDot
from attnrec.layers import Dropout, Linear


class AttentionPooling(nn.Module):
    """Several heads, each with its own shares of the history.

    Args:
        dim: width of states, values and the user vector.
        heads: number of heads; each owns dim / heads channels of the user vector.
        projection: whether what the heads pooled is mixed by a matrix, as in Vaswani et al. 2017: every head then
            speaks to all channels. It has no bias, so parts of the sum stay parts of the sum.
    """

    def __init__(self, dim: int, *, heads: int, projection: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of pooling_heads, got {dim} and {heads}; change one")
        self.heads = heads
        self.query = Linear(dim, dim)
        self.key = Linear(dim, dim)
        self.kernel = ScaledDot(KernelShape(heads=heads, channels=dim // heads, max_length=0))
        self.project_out = Linear(dim, dim, bias=False) if projection else nn.Identity()

    def everywhere(self, states: Tensor, values: Tensor) -> Tensor:
        """User vectors at every position from what came up to it: (B, L, dim), for training."""
        q, k, v = (to_heads(x, self.heads) for x in (self.query(states), self.key(states), values))
        return self.project_out(from_heads(self.kernel(q, k, v, causal=True).output))

    def weights(self, states: Tensor, *, lengths: Tensor) -> Tensor:
        """Shares of each event at the end of the history, (B, H, L), 0 at padding; see `at_end`."""
        q = to_heads(self.query(last_position(states, lengths)), self.heads)
        k = to_heads(self.key(states), self.heads)
        real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        weights = self.kernel(q, k, k, allowed=real[:, None, None], need_weights=True).weights
        assert weights is not None, "scaled dot-product gives weights when asked"
        return weights.squeeze(2)

    def parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """What each event adds to the user vector, (B, L, dim), at shares (B, H, L) and values (B, L, dim)."""
        return self.project_out(from_heads(weights[..., None] * to_heads(values, self.heads)))

    def at_end(self, states: Tensor, values: Tensor, *, lengths: Tensor) -> Attended:
        """What each event adds to the user vector at the end of the history.

        Args:
            states: contextual states, (B, L, dim).
            values: one per event, (B, L, dim).
            lengths: real positions, (B,); a user without any gets zeros.

        Returns:
            output: the parts, (B, L, dim), whose sum over L is the user vector; weights: (B, H, 1, L).
        """
        weights = self.weights(states, lengths=lengths)
        return Attended(self.parts(weights, values), weights[:, :, None])


class ItemValues(nn.Module):
    """v = W LN(e) + MLP(LN(e)): what one event is worth, from its item vector alone.

    A plain linear value learned worse: Beauty, validation NDCG@10 after 12 epochs, linear .034, this .055.
    """

    def __init__(self, dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = Linear(dim, dim, bias=False)
        self.network = nn.Sequential(Linear(dim, 2 * dim), nn.GELU(), Dropout(dropout), Linear(2 * dim, dim))

    def forward(self, items: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        normed = self.norm(items)
        return self.linear(normed) + self.network(normed)
