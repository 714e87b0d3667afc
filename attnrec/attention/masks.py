"""Masks of keys, and torch's fused attention with masks that may have empty rows.

Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

import torch.nn.functional as F
from torch import Tensor


def mask_of_keys(allowed: Tensor | None, k: Tensor) -> Tensor | None:
    """Return `allowed` as a mask of keys, (B or 1, H or 1, K); None without a mask or if it differs by query."""
    if allowed is None:
        return None
    allowed = allowed[(None,) * (4 - allowed.dim())]
    if allowed.shape[-2] > 1:
        return None
    return allowed.squeeze(-2).expand(-1, -1, k.shape[-2])


def attend_where(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, *, scale: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """Compute softmax(scale * q k' + bias) v with torch's fused attention; rows without an allowed key give zeros.

    Such rows are computed without a mask and zeroed afterwards, because some of torch's backends return NaN for them.

    Args:
        q, k, v, allowed: as for `kernel.AttentionKernel`.
        scale: factor of the scores; None for 1 / sqrt(C).
        bias: added to the scores, broadcastable to (B, H, Q, K). If it requires a gradient, torch uses its unfused
            implementation.
    """
    some = allowed.any(-1, keepdim=True)
    mask = allowed | ~some
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf"))
    mask = mask[(None,) * (4 - mask.dim())]  # the fused kernel accepts no masks of three axes
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale) * some
