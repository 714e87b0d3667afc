"""LIME: a linear model of the scores of randomly shortened histories (Ribeiro et al. 2016, arXiv:1602.04938).

Shapes: B users, L positions, S samples, n requested items.
"""

import numpy as np
import torch
from torch import Tensor

from attnrec.attribution.method import Method
from attnrec.attribution.removal import score_without_events
from attnrec.attribution.seeding import histories, random_generator
from attnrec.dataset import Batch
from attnrec.models import Model

N_SAMPLES = 256
KERNEL_WIDTH = 0.25
"""As in the authors' code for text, which uses 25 for distances in hundredths."""


def lime(
    model: Model, batch: Batch, items: Tensor, *, seed: int = 0, n_samples: int = N_SAMPLES, ridge: float = 1.0
) -> Tensor:
    """Compute the coefficients of a weighted ridge regression of the score on the presence of each event.

    There are `n_samples` samples of each history: the full one, and others without a random set of events, whose size
    is drawn first, from 1 to all. The weight of a sample is exp(-d^2 / .25^2), d the cosine distance of the kept
    events to the full history (section 3.4). The regression is solved in float64, with an unpenalised intercept. The
    paper's second step, selection of few events, is left out. The penalty shrinks coefficients to 0, most for a
    history of one event, whose only other sample is the empty history at distance 1. Works for every model.

    Args:
        model: in evaluation mode.
        batch: B users.
        items: item rows, (B, n).
        seed: seed of the samples, which depend on the seed and the history alone.
        n_samples: S, scored histories per user.
        ridge: penalty, as `alpha` of scikit-learn's `Ridge`; 1 in the authors' code.

    Returns:
        (B, L, n), in score units, 0 at padding.
    """
    kept = _samples(batch, n_samples, seed=seed)
    rows = torch.arange(len(items), device=items.device).repeat_interleave(n_samples)
    scores = score_without_events(model, batch, items, rows=rows, removed=~kept.flatten(0, 1))
    weights = sample_weights(kept, batch)
    return _ridge(kept.double(), scores.unflatten(0, kept.shape[:2]).double(), weights, ridge).float()


def sample_weights(kept: Tensor, batch: Batch) -> Tensor:
    """Return the weight of samples, by the cosine of kept events (B, S, L) to the full history: (B, S), 0 to 1."""
    cosine = (kept.sum(-1).double() / batch.lengths.clamp(min=1)[:, None]).sqrt()
    return (-(((1 - cosine) / KERNEL_WIDTH) ** 2)).exp()


def _ridge(x: Tensor, y: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """Coefficients (B, L, n) of y (B, S, n) on x (B, S, L) with sample weights (B, S)."""
    shares = (weights / weights.sum(1, keepdim=True))[..., None]
    x, y = x - (shares * x).sum(1, keepdim=True), y - (shares * y).sum(1, keepdim=True)
    weighted = (x * weights[..., None]).mT
    return torch.linalg.solve(weighted @ x + penalty * torch.eye(x.shape[-1], device=x.device), weighted @ y)


def _samples(batch: Batch, n: int, *, seed: int) -> Tensor:
    """Which events are kept, (B, S, L) bool; the first sample keeps all."""
    kept = np.zeros((len(batch.items), n, batch.items.shape[1]), dtype=bool)
    for user, history in enumerate(histories(batch)):
        generator = random_generator(seed, history)
        n_removed = np.zeros(n, dtype=int)
        if len(history):
            n_removed = generator.integers(1, len(history), size=n, endpoint=True)
        n_removed[0] = 0
        order = generator.permuted(np.tile(np.arange(len(history)), (n, 1)), axis=1)
        kept[user, :, : len(history)] = order >= n_removed[:, None]
    return torch.from_numpy(kept).to(batch.items.device)


LIME = Method(lime, source="Ribeiro et al. 2016, arXiv:1602.04938")
