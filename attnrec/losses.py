"""Losses over a catalogue, on flat positions, without the logits of all of them in memory.

Shapes: T positions with a target, N items (padding left out), D channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256  # positions at a time: 256 x 3,416 logits stay in cache; best of 128-512 on two CPUs tried


def full_softmax(users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy of the target among all items, mean over positions.

    The gradient is made in the forward pass, chunk by chunk, so memory is CHUNK x N instead of T x N
    (after Wijmans et al. 2024, arXiv:2411.09009, without its sparsity).

    Args:
        users: (T, D).
        items: (N, D), row i is item row i + 1.
        bias: (N,) or None.
        targets: item rows from 1, (T,).

    Returns:
        A scalar in nats.
    """
    return _FullSoftmax.apply(users, items, bias, targets - 1)


def sampled_softmax(users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, n_negatives: int) -> Tensor:
    """Cross-entropy of the target among shared, uniformly drawn negatives.

    Uniform draws have the same logQ for every negative (Bengio & Senecal 2008): log(n_negatives / N) is taken
    from the negatives' logits so that the loss estimates `full_softmax`. A negative that is the target is masked.

    Args:
        users, items, bias, targets: as for `full_softmax`.
        n_negatives: drawn once per call, with replacement, for all positions.
    """
    n_items = items.shape[0]
    negatives = torch.randint(n_items, (n_negatives,), device=items.device)
    targets = targets - 1
    positive = (users * items[targets]).sum(-1, keepdim=True)
    negative = users @ items[negatives].mT - torch.log(torch.tensor(n_negatives / n_items))
    if bias is not None:
        positive, negative = positive + bias[targets, None], negative + bias[negatives]
    negative = negative.masked_fill(negatives == targets[:, None], float("-inf"))
    losses = F.cross_entropy(torch.cat([positive, negative], dim=1), torch.zeros_like(targets), reduction="sum")
    return losses / max(1, len(targets))


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        """Loss and, while the chunk's probabilities are at hand, all gradients."""
        users, items = users.float(), items.float()
        d_users, d_items = torch.empty_like(users), torch.zeros_like(items)
        d_bias = torch.zeros(len(items), device=items.device)
        logits = users.new_empty(min(CHUNK, len(users)), len(items))
        total = users.new_zeros((), dtype=torch.float64)
        for start in range(0, len(users), CHUNK):
            x, target = users[start : start + CHUNK], targets[start : start + CHUNK]
            probabilities = torch.mm(x, items.mT, out=logits[: len(x)])
            if bias is not None:
                probabilities += bias.float()
            chosen = probabilities.gather(1, target[:, None])
            top = probabilities.amax(1, keepdim=True)
            torch.softmax(probabilities, dim=1, out=probabilities)
            # log sum exp = top - log p(top): p(top) >= 1 / N, so this neither underflows nor loses digits
            log_sum = top - probabilities.amax(1, keepdim=True).log()
            total += (log_sum - chosen).sum()
            probabilities.scatter_add_(1, target[:, None], probabilities.new_full((len(x), 1), -1.0))
            torch.mm(probabilities, items, out=d_users[start : start + len(x)])
            d_items.addmm_(probabilities.mT, x)
            d_bias += probabilities.sum(0)
        ctx.save_for_backward(d_users, d_items, d_bias)
        ctx.scale = 1 / max(1, len(users))
        return (total * ctx.scale).float()

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Scale the stored gradients."""
        d_users, d_items, d_bias = (gradient * (d_loss * ctx.scale) for gradient in ctx.saved_tensors)
        return d_users, d_items, d_bias if ctx.needs_input_grad[2] else None, None
