"""What masks say, and the fused kernel under a mask with rows that allow nothing.

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

import torch.nn.functional as F
from torch import Tensor


def mask_of_keys(allowed: Tensor | None, k: Tensor) -> Tensor | None:
    """What `allowed` says of keys, (B or 1, H or 1, K); None where it says nothing or differs by query."""
    if allowed is None:
        return None
    allowed = allowed[(None,) * (4 - allowed.dim())]
    if allowed.shape[-2] > 1:
        return None
    return allowed.squeeze(-2).expand(-1, -1, k.shape[-2])


def attend_where(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, *, scale: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """softmax(scale * q k' + bias) v by the fused kernel; rows with nothing allowed give zeros.

    Such rows are let through and zeroed after, because not every kernel keeps them free of NaN.

    Args:
        q, k, v, allowed: as for `kernel.AttentionKernel`.
        scale: of the products; None is 1 / sqrt(C).
        bias: added to the scores, broadcastable to (B, H, Q, K). Where it learns, torch's plain kernel runs instead.
    """
    some = allowed.any(-1, keepdim=True)
    mask = allowed | ~some
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf"))
    mask = mask[(None,) * (4 - mask.dim())]  # of three axes the fused kernel takes none
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale) * some
