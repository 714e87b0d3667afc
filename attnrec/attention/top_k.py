"""Hard top-k attention: a query attends to its k best keys only.

Samples k keys without replacement by the Gumbel-top-k trick (Kool et al. 2019, arXiv:1903.06059), with the gradient of
REINFORCE (Williams 1992, doi:10.1007/BF00992696), as hard attention in Xu et al. 2015, arXiv:1502.03044, section 4.1.
Shapes: B users, H heads, Q queries, K keys, C channels per head.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
from attnrec.attention.scaled_dot import allowed_pairs, masked_softmax
from attnrec.config import Config


class TopKSettings(Config):
    """Settings of `TopK`.

    Attributes:
        k: number of keys with a weight above 0.
        estimator: gradient estimator of the selection. "straight_through": the gradient of the full softmax (biased).
            "reinforce": training samples the k keys and the model adds `surrogate_loss` to its loss (unbiased, noisy).
    """

    k: int = Field(default=8, gt=0)
    estimator: Literal["straight_through", "reinforce"] = "straight_through"


class TopK(AttentionKernel):
    """Softmax over the k keys with the largest scaled dot-products; all other weights are exactly 0.

    Attributes:
        log_probability: log-probability of the keys sampled in the last forward pass, summed over the independent
            heads, (B, Q); 0 for a query with at most k allowed keys. None unless keys were sampled: with "reinforce",
            in training mode.
    """

    paper = "Kool et al. 2019, arXiv:1903.06059"
    weights_kind = "normalised"
    Settings = TopKSettings
    settings: TopKSettings

    def __init__(self, shape: KernelShape, settings: Config | None = None) -> None:
        super().__init__(shape, settings)
        self.log_probability: Tensor | None = None
        self.baseline = MovingBaseline() if self.settings.estimator == "reinforce" else None

    @property
    def has_sampled(self) -> bool:
        """See `kernel.AttentionKernel`."""
        return self.log_probability is not None

    def surrogate_loss(self, losses: Tensor, *, real: Tensor) -> Tensor | None:
        """See `kernel.AttentionKernel`. `reinforce_loss` with the history's loss for each of its samples."""
        if self.log_probability is None or self.baseline is None:
            return None
        history_log_probability = (self.log_probability * real).sum(1)
        return reinforce_loss(history_log_probability, losses, self.baseline(losses))

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
        """See `kernel.AttentionKernel`."""
        logits = q @ k.mT * q.shape[-1] ** -0.5
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 has too many ties
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal).broadcast_to(logits.shape)
        scores, n = logits.detach(), min(self.settings.k, k.shape[-2])
        sample = self.training and self.settings.estimator == "reinforce"
        if sample:
            scores = scores - torch.empty_like(scores).exponential_().log()  # Gumbel noise: the n best are a sample
        self.log_probability = _log_probability(logits, pairs, scores, n).sum(1) if sample else None
        weights = masked_softmax(logits, _best(scores, pairs, n))
        if self.settings.estimator == "straight_through":
            soft = masked_softmax(logits, pairs)
            weights = soft + (weights - soft).detach()
        return AttentionOutput(weights.to(v.dtype) @ v, weights if need_weights else None)


class MovingBaseline(nn.Module):
    """The moving average of earlier losses, a baseline that reduces the variance of `reinforce_loss` without bias.

    Args:
        decay: weight of the old mean at each update.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, losses: Tensor) -> Tensor:
        """Return the current mean, a scalar, initially 0; then update it with `losses` (any shape)."""
        baseline = self.total / self.weight.clamp(min=1 - self.decay)
        self.total = self.decay * self.total + (1 - self.decay) * losses.detach().mean()
        self.weight = self.decay * self.weight + (1 - self.decay)
        return baseline


def reinforce_loss(log_probability: Tensor, losses: Tensor, baseline: Tensor | float) -> Tensor:
    """Return the term that gives the mean of `losses` the gradient of the expected loss.

    Args:
        log_probability: log-probability of each sample, any shape.
        losses: loss of each sample, same shape; a reward is a negative loss.
        baseline: expected loss, independent of the samples.

    Returns:
        A scalar; only its gradient is meaningful.
    """
    return ((losses.detach() - baseline) * log_probability).mean()


def _best(scores: Tensor, allowed: Tensor, n: int) -> Tensor:
    """Return the mask of the n best allowed keys of each query, or of all if there are fewer, (B, H, Q, K)."""
    scores = scores.masked_fill(~allowed, -torch.inf)
    threshold = scores.topk(n, dim=-1).values[..., -1:]
    above, tied = scores > threshold, scores == threshold
    # ties: the earlier key wins; with topk alone the amount of padding would decide
    free = n - above.sum(-1, keepdim=True)
    return (above | (tied & (tied.cumsum(-1, dtype=torch.int32) <= free))) & allowed


def _log_probability(logits: Tensor, allowed: Tensor, noisy: Tensor, n: int) -> Tensor:
    """Return the log-probability of sampling the n best keys by `noisy`, in order, without replacement, (B, H, Q)."""
    order = noisy.masked_fill(~allowed, -torch.inf).topk(n, dim=-1).indices
    masked = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
    rest = masked.scatter(-1, order, torch.finfo(logits.dtype).min).logsumexp(-1, keepdim=True)
    sampled = masked.gather(-1, order)
    remaining = torch.cat([sampled, rest], -1).flip(-1).logcumsumexp(-1).flip(-1)
    has_choice = allowed.sum(-1) > n
    return (sampled - remaining[..., :n]).sum(-1).where(has_choice, 0.0)
