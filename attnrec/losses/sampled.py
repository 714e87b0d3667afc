"""Losses of the target against sampled negatives instead of the whole catalogue.

All of them ignore a negative that equals the target of its position, and return 0 without positions.
Shapes: T positions with a target, K negatives, N items (padding left out), D channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.losses.negatives import Negatives
from attnrec.losses.sampled_scores import score_samples


def sampled_softmax(
    users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, negatives: Negatives
) -> Tensor:
    """Compute the cross-entropy of the target among sampled negatives, an estimate of `full_softmax`.

    log(K q) is subtracted from the logit of a negative with sampling probability q, so that the expected sum over the
    negatives is the sum over all other items (Bengio & Senecal 2008, doi:10.1109/TNN.2007.912312; Yi et al. 2019,
    doi:10.1145/3298689.3346996). The target's logit is not corrected, because the target is not sampled.
    Items with sampling probability 0 are not part of the sum.

    Args:
        users: (T, D).
        items: (N, D), row i is item row i + 1.
        bias: (N,) or None.
        targets: item rows from 1, (T,).
        negatives: K for all positions, or K per position.

    Returns:
        A scalar in nats, mean over positions.
    """
    positive, negative = _scores(users, items, bias, targets, negatives)
    logits = torch.cat([positive[:, None], negative - (negatives.log_q + math.log(len(negatives)))], dim=1)
    losses = F.cross_entropy(logits, torch.zeros_like(targets), reduction="sum")
    return losses / max(1, len(targets))


def gbce(
    users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, negatives: Negatives, t: float
) -> Tensor:
    """Compute the generalised binary cross-entropy of gSASRec (Petrov & Macdonald 2023, arXiv:2308.07192).

    The positive's term -log sigmoid(s) is weighted by beta (see `positive_weight`), each negative's is
    -log(1 - sigmoid(s)). As in the paper the sum over the positive and its K negatives is divided by K + 1, then
    by T; an ignored negative does not change K. The paper samples negatives per position.

    Args:
        users, items, bias, targets, negatives: see `sampled_softmax`; log_q is not used.
        t: calibration, 0 to 1.
    """
    weight = positive_weight(len(negatives), len(items), t=t)
    return _binary(*_scores(users, items, bias, targets, negatives), weight=weight)


def positive_weight(n_negatives: int, n_items: int, *, t: float) -> float:
    """Return beta of gBCE: alpha (t (1 - 1 / alpha) + 1 / alpha), with the sampling rate alpha = K / (N - 1).

    beta is 1 at t = 0 and alpha at t = 1. With more negatives than items alpha is above 1, which is valid, too.
    """
    rate = n_negatives / max(1, n_items - 1)
    return rate * (t * (1 - 1 / rate) + 1 / rate)


def bce(users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, negatives: Negatives) -> Tensor:
    """Compute the binary cross-entropy of SASRec (Kang & McAuley 2018, arXiv:1808.09781), for K negatives.

    Divided by K + 1 and T as in `gbce`; with one negative this is half of the paper's sum of two terms.

    Args:
        users, items, bias, targets, negatives: see `sampled_softmax`; log_q is not used.
    """
    return _binary(*_scores(users, items, bias, targets, negatives), weight=1.0)


def bpr(users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, negatives: Negatives) -> Tensor:
    """Compute Bayesian personalised ranking (Rendle et al. 2009, arXiv:1205.2618): -log sigmoid(target - negative).

    Mean over the negatives other than the target, then over positions.

    Args:
        users, items, bias, targets, negatives: see `sampled_softmax`; log_q is not used.
    """
    positive, negative = _scores(users, items, bias, targets, negatives)
    n_counted = (negatives.items != targets[:, None]).sum(1).clamp(min=1)
    losses = F.softplus(negative - positive[:, None]).sum(1) / n_counted
    return losses.sum() / max(1, len(targets))


def _binary(positive: Tensor, negative: Tensor, *, weight: float) -> Tensor:
    n_positions, n_negatives = negative.shape
    losses = weight * F.softplus(-positive) + F.softplus(negative).sum(1)
    return losses.sum() / ((n_negatives + 1) * max(1, n_positions))


def _scores(
    users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Negatives
) -> tuple[Tensor, Tensor]:
    """Return scores of targets (T,) and negatives (T, K) in float32; -inf for a negative that is the target."""
    target_rows, sampled_rows = targets - 1, negatives.items - 1
    positive = (users * items[target_rows]).sum(-1)
    negative = users @ items[sampled_rows].mT if sampled_rows.dim() == 1 else score_samples(users, items, sampled_rows)
    if bias is not None:
        positive, negative = positive + bias[target_rows], negative + bias.take(sampled_rows)
    return positive.float(), negative.float().masked_fill(sampled_rows == target_rows[:, None], float("-inf"))
