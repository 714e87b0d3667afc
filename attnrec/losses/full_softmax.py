"""Cross-entropy over a whole catalogue, on flat positions, without the logits of all of them in memory.

Shapes: T positions with a target, N items (padding left out), D channels.
"""

from typing import Any

import torch
from torch import Tensor

from attnrec.precision import rounded_matmul, should_round

CHUNK = 256  # positions at a time: 256 x 3,416 logits stay in cache; best of 64-512 on the CPUs tried
LARGEST = {"cpu": 1 << 26, "cuda": 1 << 28}  # logits at a time, 256 MB and 1 GB
TINY = 1e-30  # a probability below it has lost digits


def full_softmax(
    users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the target among all items, mean over positions.

    The gradient is made in the forward pass, chunk by chunk, so memory is chunk x N instead of T x N
    (after Wijmans et al. 2024, arXiv:2411.09009, without its sparsity). Under `precision.reduced_precision` the
    products' inputs are rounded; everything else is float32.

    Args:
        users: (T, D).
        items: (N, D), row i is item row i + 1.
        bias: (N,) or None.
        targets: item rows from 1, (T,).
        label_smoothing: the share s of what is asked for that is spread over all N items: (1 - s) on the target
            and s / N on each, as in `torch.nn.functional.cross_entropy` (Szegedy et al. 2016, arXiv:1512.00567).

    Returns:
        A scalar in nats.
    """
    return _FullSoftmax.apply(users, items, bias, targets - 1, label_smoothing)


def chunk_size(n_items: int, device: torch.device) -> int:
    """Positions whose logits are in memory at a time."""
    fitting = max(16, LARGEST.get(device.type, LARGEST["cpu"]) // max(1, n_items))
    return min(CHUNK, fitting) if device.type == "cpu" else fitting


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, label_smoothing: float
    ) -> Tensor:
        """Loss and, while the chunk's probabilities are at hand, all gradients."""
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
            # only whole chunks are rounded: each new shape would cost a new kernel
            with rounded_matmul(rounded and len(x) == chunk):
                part = torch.mm(x, items.mT, out=logits[: len(x)])
                total += _to_gradient(part, x, items, bias, target, label_smoothing)
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


def _to_gradient(
    logits: Tensor, x: Tensor, items: Tensor, bias: Tensor | None, target: Tensor, label_smoothing: float
) -> Tensor:
    """Turn logits (t, N), still without bias, into their gradient, in place; returns the summed loss.

    Args:
        logits: of the users x (t, D) and the items (N, D).
        target: rows from 0, (t, 1).
    """
    if bias is not None:
        logits += bias
    logit = logits.gather(1, target)
    asked = logit.lerp(logits.mean(1, keepdim=True), label_smoothing) if label_smoothing else logit
    torch.softmax(logits, dim=1, out=logits)
    probability = logits.gather(1, target)
    log_sum = logit - probability.log()
    unsure = (probability < TINY).squeeze(1)
    if unsure.any():  # the target's own probability does not tell: sum again
        again = x[unsure] @ items.mT
        log_sum[unsure] = (again if bias is None else again + bias).logsumexp(1, keepdim=True)
    logits.scatter_(1, target, probability + (label_smoothing - 1.0))
    if label_smoothing:
        logits -= label_smoothing / len(items)
    return (log_sum - asked).sum()
