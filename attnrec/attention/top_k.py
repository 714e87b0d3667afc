"""Hard top-k attention: a query attends to its k best keys and to nothing else.

Sampling k keys without replacement is Gumbel-top-k (Kool et al. 2019, arXiv:1903.06059); its gradient is REINFORCE
(Williams 1992, doi:10.1007/BF00992696), as for hard attention in Xu et al. 2015, arXiv:1502.03044, section 4.1.
Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import Attended, AttentionKernel, KernelShape
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class TopKSettings(Config):
    """`k` keys keep a share. How gradients reach the choice:

    "straight_through": as if nothing had been cut (biased, needs nothing from the model);
    "reinforce": in training the k are drawn, and the model adds `surrogate` to its loss (unbiased, noisy).
    """

    k: int = Field(default=8, gt=0)
    estimator: Literal["straight_through", "reinforce"] = "straight_through"


class TopK(AttentionKernel):
    """Softmax over the k keys of the largest scaled dot-products; every other share is exactly 0.

    Attributes:
        log_probability: of the keys drawn in the last forward pass, summed over heads, which draw independently,
            (B, Q); 0 where a query had no more than k keys to choose from. None unless keys were drawn: with
            "reinforce", in training mode.
    """

    paper = "Kool et al. 2019, arXiv:1903.06059"
    weights_are = "shares"
    Settings = TopKSettings
    settings: TopKSettings

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        self.log_probability: Tensor | None = None
        self.baseline = MovingBaseline() if self.settings.estimator == "reinforce" else None

    @property
    def draws(self) -> bool:
        """See `kernel.AttentionKernel`."""
        return self.log_probability is not None

    def surrogate(self, losses: Tensor, *, real: Tensor) -> Tensor | None:
        """See `kernel.AttentionKernel`: `reinforce_loss`, where every draw in a history answers for the loss of all of it."""
        if self.log_probability is None or self.baseline is None:
            return None
        of_history = (self.log_probability * real).sum(1)
        return reinforce_loss(of_history, losses, self.baseline(losses))

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
        """See `kernel.AttentionKernel`."""
        logits = q @ k.mT * q.shape[-1] ** -0.5
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 has too many ties
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal).broadcast_to(logits.shape)
        scores, n = logits.detach(), min(self.settings.k, k.shape[-2])
        draw = self.training and self.settings.estimator == "reinforce"
        if draw:
            scores = scores - torch.empty_like(scores).exponential_().log()  # Gumbel noise: the n best are a draw
        self.log_probability = _log_probability(logits, pairs, scores, n).sum(1) if draw else None
        weights = masked_softmax(logits, _best(scores, pairs, n))
        if self.settings.estimator == "straight_through":
            soft = masked_softmax(logits, pairs)
            weights = soft + (weights - soft).detach()
        return Attended(weights.to(v.dtype) @ v, weights if need_weights else None)


class MovingBaseline(nn.Module):
    """The running mean of earlier losses, by which `reinforce_loss` gets less noisy without a bias.

    Args:
        decay: how much of the mean stays at each update.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, losses: Tensor) -> Tensor:
        """The mean before `losses` (any shape), a scalar, 0 at first; then takes them in."""
        baseline = self.total / self.weight.clamp(min=1 - self.decay)
        self.total = self.decay * self.total + (1 - self.decay) * losses.detach().mean()
        self.weight = self.decay * self.weight + (1 - self.decay)
        return baseline


def reinforce_loss(log_probability: Tensor, losses: Tensor, baseline: Tensor | float) -> Tensor:
    """What to add to the mean of `losses`, so that its gradient is that of the expected loss.

    Args:
        log_probability: of what was drawn, as `TopK` keeps it, any shape.
        losses: what came of it, same shape; a reward is a negative loss.
        baseline: what was to be expected, independent of the draw.

    Returns:
        A scalar whose value means nothing.
    """
    return ((losses.detach() - baseline) * log_probability).mean()


def _best(scores: Tensor, allowed: Tensor, n: int) -> Tensor:
    """True for the n best allowed keys of each query, or for as many as there are: (B, H, Q, K)."""
    scores = scores.masked_fill(~allowed, -torch.inf)
    worst = scores.topk(n, dim=-1).values[..., -1:]
    above, level = scores > worst, scores == worst
    # ties: earlier key wins, where topk alone would decide by how much padding follows
    free = n - above.sum(-1, keepdim=True)
    return (above | (level & (level.cumsum(-1, dtype=torch.int32) <= free))) & allowed


def _log_probability(logits: Tensor, allowed: Tensor, noisy: Tensor, n: int) -> Tensor:
    """Of drawing the n keys best by `noisy` in that order, each from what the ones before left: (B, H, Q)."""
    order = noisy.masked_fill(~allowed, -torch.inf).topk(n, dim=-1).indices
    masked = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
    never = masked.scatter(-1, order, torch.finfo(logits.dtype).min).logsumexp(-1, keepdim=True)
    drawn = masked.gather(-1, order)
    left = torch.cat([drawn, never], -1).flip(-1).logcumsumexp(-1).flip(-1)
    had_a_choice = allowed.sum(-1) > n
    return (drawn - left[..., :n]).sum(-1).where(had_a_choice, 0.0)
