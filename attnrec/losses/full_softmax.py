"""Cross-entropy over the whole catalogue, on flattened positions, without the logits of all positions in memory.

Shapes: T positions with a target, N items (padding left out), D channels.
"""

from typing import Any

import torch
from torch import Tensor

from attnrec.precision import rounded_matmul, should_round

CHUNK = 256  # positions per chunk: 256 x 3,416 logits fit into the cache; the best of 64-512 on the CPUs tried
MAX_LOGITS = {"cpu": 1 << 26, "cuda": 1 << 28}  # logits per chunk, 256 MB and 1 GB
TINY = 1e-30  # smaller probabilities have lost precision


def full_softmax(
    users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the cross-entropy of the target among all items, mean over positions.

    The forward pass computes the gradient chunk by chunk, so memory is chunk x N instead of T x N
    (after Wijmans et al. 2024, arXiv:2411.09009, without its sparsity). Under `precision.reduced_precision` the
    inputs of matrix products are rounded; everything else is float32.

    Args:
        users: (T, D).
        items: (N, D), row i is item row i + 1.
        bias: (N,) or None.
        targets: item rows from 1, (T,).
        label_smoothing: probability mass s spread over all N items: (1 - s) for the target and s / N for each item, as
            in `torch.nn.functional.cross_entropy` (Szegedy et al. 2016, arXiv:1512.00567).

    Returns:
        A scalar in nats.
    """
    return _FullSoftmax.apply(users, items, bias, targets - 1, label_smoothing)


def chunk_size(n_items: int, device: torch.device) -> int:
    """Return the number of positions per chunk."""
    max_positions = max(16, MAX_LOGITS.get(device.type, MAX_LOGITS["cpu"]) // max(1, n_items))
    return min(CHUNK, max_positions) if device.type == "cpu" else max_positions


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, label_smoothing: float
    ) -> Tensor:
        """Compute the loss and, chunk by chunk, all gradients."""
        rounded = should_round(users)
        users, items = users.float(), items.float()
        bias = None if bias is None else bias.float()
        d_users, d_items = torch.empty_like(users), torch.zeros_like(items)
        d_bias = torch.zeros(len(items), device=items.device)
        chunk = chunk_size(len(items), items.device)
        logits = users.new_empty(min(chunk, len(users)), len(items))
        total = users.new_zeros((), dtype=torch.float64)
        for start in range(0, len(users), chunk):
            x, target = users[start : start + chunk], targets[start : start + chunk, None]
            # only full chunks are rounded: each new shape would compile a new kernel
            with rounded_matmul(rounded and len(x) == chunk):
                part = torch.mm(x, items.mT, out=logits[: len(x)])
                total += _replace_by_gradient(part, x, items, bias, target, label_smoothing)
                torch.mm(part, items, out=d_users[start : start + len(x)])
                d_items.addmm_(part.mT, x)
                d_bias += part.sum(0)
        ctx.save_for_backward(d_users, d_items, d_bias)
        ctx.scale = 1 / max(1, len(users))
        return (total * ctx.scale).float()

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Scale the stored gradients."""
        d_users, d_items, d_bias = (gradient * (d_loss * ctx.scale) for gradient in ctx.saved_tensors)
        return d_users, d_items, d_bias if ctx.needs_input_grad[2] else None, None, None


def _replace_by_gradient(
    logits: Tensor, x: Tensor, items: Tensor, bias: Tensor | None, target: Tensor, label_smoothing: float
) -> Tensor:
    """Replace logits (t, N) without bias by their gradient in place; return the summed loss.

    Args:
        logits: scores of the users x (t, D) for the items (N, D).
        target: item rows from 0, (t, 1).
    """
    if bias is not None:
        logits += bias
    logit = logits.gather(1, target)
    target_logit = logit.lerp(logits.mean(1, keepdim=True), label_smoothing) if label_smoothing else logit
    torch.softmax(logits, dim=1, out=logits)
    probability = logits.gather(1, target)
    log_sum = logit - probability.log()
    imprecise = (probability < TINY).squeeze(1)
    if imprecise.any():  # compute the log-sum-exp directly, without the target's probability
        scores = x[imprecise] @ items.mT
        log_sum[imprecise] = (scores if bias is None else scores + bias).logsumexp(1, keepdim=True)
    logits.scatter_(1, target, probability + (label_smoothing - 1.0))
    if label_smoothing:
        logits -= label_smoothing / len(items)
    return (log_sum - target_logit).sum()
