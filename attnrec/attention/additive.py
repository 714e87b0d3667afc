"""Additive attention (Bahdanau et al. 2015, arXiv:1409.0473, appendix A.1.2).

Shapes: B users, H heads, Q queries, K keys, C channels per head.
Every pair of query and key has its own hidden layer, which costs C tanh per pair: a training step took about 40 times
as long as with scaled_dot (B = 32, L = 200, C = 32, one CPU). Meant for few queries or short histories.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config

BLOCK = 2**21  # hidden units per block: 8 MB fit into the cache; blocks of 100 MB were 4x slower on a CPU


class Additive(AttentionKernel):
    """softmax(u' tanh(Wq q + Wk k)) v, with Wq, Wk (C, C) and u (C) per head, no biases, as in the paper.

    The hidden units of all pairs would take B * H * Q * K * C elements. The queries are therefore processed in blocks,
    and the backward pass recomputes the hidden units of each block: at most BLOCK of them exist at a time, or those of
    one query (B * H * K * C, the size of the keys) if that is more.
    """

    paper = "Bahdanau et al. 2015, arXiv:1409.0473"
    weights_kind = "normalised"

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        heads, channels = shape.heads, shape.channels
        self.project_query = nn.Parameter(torch.randn(heads, channels, channels) * channels**-0.5)
        self.project_key = nn.Parameter(torch.randn(heads, channels, channels) * channels**-0.5)
        self.vector = nn.Parameter(torch.randn(heads, channels) * channels**-0.5)

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
        """See `kernel.AttentionKernel`. Without weights no (B, H, Q, K) tensor is created."""
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal)
        pairs = pairs.broadcast_to(torch.broadcast_shapes(pairs.shape, (q.shape[-2], k.shape[-2])))
        queries, keys = q @ self.project_query, k @ self.project_key
        n_keys, step = k.shape[-2], max(1, BLOCK // max(1, k.numel()))
        outputs, weights = [], []
        for start in range(0, q.shape[-2], step):
            stop = start + step
            visible = slice(stop if causal else n_keys)
            output, block_weights = checkpoint(
                _pool,
                queries[..., start:stop, :],
                keys[..., visible, :],
                v[..., visible, :],
                self.vector,
                pairs[..., start:stop, visible],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            outputs.append(output)
            if need_weights:
                weights.append(F.pad(block_weights, (0, n_keys - block_weights.shape[-1])))
        return AttentionOutput(torch.cat(outputs, dim=-2), torch.cat(weights, dim=-2) if need_weights else None)


def _pool(queries: Tensor, keys: Tensor, v: Tensor, vector: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return output (B, H, n, C) and weights (B, H, n, K) for n projected queries and the projected keys."""
    queries, keys = (x.transpose(0, 1).contiguous() for x in (queries, keys))  # heads first: one product per head
    hidden = torch.tanh(queries[..., :, None, :] + keys[..., None, :, :])
    logits = (hidden.flatten(1, 3) @ vector[:, :, None]).view(hidden.shape[:-1]).transpose(0, 1)
    weights = masked_softmax(logits, allowed)
    return weights @ v, weights
