"""Global attention: one learned query per head over the whole history (Yang et al. 2016, doi:10.18653/v1/N16-1174).

The word attention of equations 5-7: the weight of a key is the softmax of u' tanh(key), independent of the query.
Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

import torch
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config

BLOCK = 64  # keys per block of `prefix_pool`


class GlobalQuery(AttentionKernel):
    """softmax(u' tanh(k)) v over the allowed keys, with one learned u (C) per head.

    The values of the queries are ignored; only their masks matter. Linear in the length, but the weights cannot depend
    on the last item.
    """

    paper = "Yang et al. 2016, doi:10.18653/v1/N16-1174"
    weights_kind = "normalised"

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
    ) -> AttentionOutput:
        """See `kernel.AttentionKernel`. Linear in Q + K without weights if all queries have the same mask."""
        logits = (torch.tanh(k) @ self.query[:, :, None]).mT
        same_mask = allowed is None or allowed.dim() < 2 or allowed.shape[-2] == 1
        if causal and same_mask and not need_weights:
            keys = logits.new_ones(1, dtype=torch.bool) if allowed is None else allowed
            return AttentionOutput(prefix_pool(logits, v, keys), None)
        weights = masked_softmax(logits, allowed_pairs(q, k, allowed=allowed, causal=causal))
        output = (weights @ v).expand(*q.shape[:-1], -1)
        return AttentionOutput(output, weights.expand(*q.shape[:-1], -1) if need_weights else None)


def prefix_pool(logits: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Pool the values up to each position by softmax, in time and memory linear in K.

    Works block by block: the positions before a block are one more key, whose value is their pool and whose logit is
    their log-sum-exp. No exponent exceeds 0, so the logits may have any size.

    Args:
        logits: (B, H, 1, K).
        v: (B, H, K, C).
        allowed: False = excluded, broadcastable to (B, H, 1, K).

    Returns:
        (B, H, K, C); zeros before the first allowed key.
    """
    allowed = allowed.broadcast_to(logits.shape)
    carried_logit, carried = torch.zeros_like(logits[..., :1]), torch.zeros_like(allowed[..., :1])
    pool, outputs = torch.zeros_like(v[..., :1, :]), []
    parts = (logits.split(BLOCK, -1), allowed.split(BLOCK, -1), v.split(BLOCK, -2))
    for logits_block, allowed_block, v_block in zip(*parts, strict=True):
        scores, mask = torch.cat([carried_logit, logits_block], -1), torch.cat([carried, allowed_block], -1)
        n = logits_block.shape[-1]
        past = torch.ones(n, n + 1, dtype=torch.bool, device=v.device).tril(diagonal=1)
        outputs.append(masked_softmax(scores, mask & past) @ torch.cat([pool, v_block], -2))
        pool, carried = outputs[-1][..., -1:, :], mask.any(-1, keepdim=True)
        carried_logit = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
    return torch.cat(outputs, dim=-2)
