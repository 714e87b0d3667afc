"""Global attention: one learned query per head over the whole history (Yang et al. 2016, doi:10.18653/v1/N16-1174).

Their word attention, eq. 5-7: a key's share is the softmax of u' tanh(key), the same for whoever asks.
Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

import torch
from torch import Tensor, nn

from attnrec.attention.kernel import Attended, AttentionKernel, KernelShape
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config

BLOCK = 64  # keys at a time in `prefix_pool`


class GlobalQuery(AttentionKernel):
    """softmax(u' tanh(k)) v over the keys that a query may see, with one learned u (C) per head.

    The queries passed in are not looked at: only which keys they may see. Cheap, linear in the length; what it
    cannot do is ask for something that depends on the last item.
    """

    paper = "Yang et al. 2016, doi:10.18653/v1/N16-1174"
    weights_are = "shares"

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        self.query = nn.Parameter(torch.randn(shape.heads, shape.channels) * shape.channels**-0.5)

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
    ) -> Attended:
        """See `kernel.AttentionKernel`. Without weights, and with a mask that is the same for all queries, linear in Q + K."""
        logits = (torch.tanh(k) @ self.query[:, :, None]).mT
        same_for_all = allowed is None or allowed.dim() < 2 or allowed.shape[-2] == 1
        if causal and same_for_all and not need_weights:
            keys = logits.new_ones(1, dtype=torch.bool) if allowed is None else allowed
            return Attended(prefix_pool(logits, v, keys), None)
        weights = masked_softmax(logits, allowed_pairs(q, k, allowed=allowed, causal=causal))
        output = (weights @ v).expand(*q.shape[:-1], -1)
        return Attended(output, weights.expand(*q.shape[:-1], -1) if need_weights else None)


def prefix_pool(logits: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """At each position the softmax pool of the values up to it, in time and memory linear in K.

    Goes block by block; all that came before is one more key, whose value is its pool and whose logit is its
    log-sum-exp. No exponent is above 0, so logits of any size are fine.

    Args:
        logits: (B, H, 1, K).
        v: (B, H, K, C).
        allowed: True = counts, broadcastable to (B, H, 1, K).

    Returns:
        (B, H, K, C); zeros where nothing counts yet.
    """
    allowed = allowed.broadcast_to(logits.shape)
    before, seen = torch.zeros_like(logits[..., :1]), torch.zeros_like(allowed[..., :1])
    pool, outputs = torch.zeros_like(v[..., :1, :]), []
    parts = (logits.split(BLOCK, -1), allowed.split(BLOCK, -1), v.split(BLOCK, -2))
    for logits_block, allowed_block, v_block in zip(*parts, strict=True):
        scores, counts = torch.cat([before, logits_block], -1), torch.cat([seen, allowed_block], -1)
        n = logits_block.shape[-1]
        past = torch.ones(n, n + 1, dtype=torch.bool, device=v.device).tril(diagonal=1)
        outputs.append(masked_softmax(scores, counts & past) @ torch.cat([pool, v_block], -2))
        pool, seen = outputs[-1][..., -1:, :], counts.any(-1, keepdim=True)
        before = scores.masked_fill(~counts, torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
    return torch.cat(outputs, dim=-2)
