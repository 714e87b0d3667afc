"""LIME: a line through the scores of histories with random events taken out (Ribeiro et al. 2016, arXiv:1602.04938).

Shapes: B users, L positions, S samples, n items asked for.
"""

import numpy as np
import torch
from torch import Tensor

from attnrec.attribution.method import Method
from attnrec.attribution.removal import score_without_events
from attnrec.attribution.seeding import generator, histories
from attnrec.dataset import Batch
from attnrec.models import Model

N_SAMPLES = 256
KERNEL_WIDTH = 0.25
"""As in the authors' code for texts, which counts distances in hundredths and says 25."""


def lime(
    model: Model, batch: Batch, items: Tensor, *, seed: int = 0, n_samples: int = N_SAMPLES, ridge: float = 1.0
) -> Tensor:
    """Coefficients of a weighted ridge regression of the score on which events are there.

    Of each history `n_samples` are made: the whole one, and others without a random set of events, whose size is
    drawn first, 1 to all. A sample counts exp(-d^2 / .25^2), d the cosine distance of the kept events to all (section
    3.4). The regression is torch's own solution in float64, with a free intercept; of the paper's two steps the first,
    choosing few events, is left out. The penalty draws coefficients to 0: strongly so where a history has one event,
    whose only other sample is the empty history, at distance 1. Works for every model.

    Args:
        model: in evaluation mode.
        batch: B users.
        items: item rows, (B, n).
        seed: of the samples, which depend on it and the history alone.
        n_samples: S, scored histories per user.
        ridge: the penalty, as scikit-learn's `Ridge(alpha)` has it; 1 in the authors' code.

    Returns:
        (B, L, n), in score units, 0 at padding.
    """
    kept = _samples(batch, n_samples, seed=seed)
    rows = torch.arange(len(items), device=items.device).repeat_interleave(n_samples)
    scores = score_without_events(model, batch, items, rows=rows, removed=~kept.flatten(0, 1))
    return _ridge(kept.double(), scores.unflatten(0, kept.shape[:2]).double(), closeness(kept, batch), ridge).float()


def closeness(kept: Tensor, batch: Batch) -> Tensor:
    """What samples count for, by the cosine of the kept events (B, S, L) to all of the history: (B, S), 0 to 1."""
    cosine = (kept.sum(-1).double() / batch.lengths.clamp(min=1)[:, None]).sqrt()
    return (-(((1 - cosine) / KERNEL_WIDTH) ** 2)).exp()


def _ridge(x: Tensor, y: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """Coefficients (B, L, n) of y (B, S, n) on x (B, S, L), where samples count `weights` (B, S)."""
    shares = (weights / weights.sum(1, keepdim=True))[..., None]
    x, y = x - (shares * x).sum(1, keepdim=True), y - (shares * y).sum(1, keepdim=True)
    weighted = (x * weights[..., None]).mT
    return torch.linalg.solve(weighted @ x + penalty * torch.eye(x.shape[-1], device=x.device), weighted @ y)


def _samples(batch: Batch, n: int, *, seed: int) -> Tensor:
    """Which events are kept, (B, S, L) bool; the first sample keeps all."""
    kept = np.zeros((len(batch.items), n, batch.items.shape[1]), dtype=bool)
    for user, history in enumerate(histories(batch)):
        draws = generator(seed, history)
        n_removed = draws.integers(1, len(history), size=n, endpoint=True) if len(history) else np.zeros(n, dtype=int)
        n_removed[0] = 0
        places = draws.permuted(np.tile(np.arange(len(history)), (n, 1)), axis=1)
        kept[user, :, : len(history)] = places >= n_removed[:, None]
    return torch.from_numpy(kept).to(batch.items.device)


LIME = Method(lime, source="Ribeiro et al. 2016, arXiv:1602.04938")
