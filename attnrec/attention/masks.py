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


def attend_where(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """softmax(q k' / sqrt(C)) v by the fused kernel; rows with nothing allowed give zeros.

    Such rows are let through and zeroed after, because not every kernel keeps them free of NaN.
    """
    some = allowed.any(-1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | ~some) * some
