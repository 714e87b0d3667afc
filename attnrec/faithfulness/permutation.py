"""Permutation test of attention: do the scores change if the readout's weights are permuted among the events?

Jain & Wallace 2019 (Attention is not Explanation, arXiv:1902.10186, section 4.2.1).
Shapes: B users, H heads, L positions, P permutations, D channels, N = n_items + 1 item rows.
"""

import numpy as np
import torch
from torch import Tensor

from attnrec.attribution.seeding import histories, random_generator
from attnrec.faithfulness.orders import PERMUTED
from attnrec.faithfulness.top_items import TopItems
from attnrec.models import Model
from attnrec.models.attention_weights import ReadoutWeights

N_PERMUTATIONS = 100
INTERCHANGEABLE_DISTANCE = 0.05
"""Attention is interchangeable for a user whose median total variation distance is below this; the limit is ours."""


@torch.no_grad()
def permutation_test(
    model: Model, top_items: TopItems, *, seed: int = 0, n_permutations: int = N_PERMUTATIONS
) -> tuple[Tensor, Tensor] | None:
    """Compute how much the distribution over items changes when attention weights are permuted among the events.

    All heads are permuted in the same way; values do not change. A projection that mixes the heads is applied after
    the permutation. The distance is half the sum of |p - p'| over recommendable items (total variation), p the
    softmax of the scores.

    Args:
        model: in evaluation mode.
        top_items: B users with their explained items.
        seed: seed of the permutations, which depend on seed, history and item alone.
        n_permutations: P, of which the median distance is returned.

    Returns:
        The largest weight of each user, mean over heads, (B,), and the median distance, (B,) float64: higher means
        that the scores depend more on the attention weights. None for a model without `readout_weights`.
    """
    readout = model.readout_weights(top_items.batch)
    if readout is None:
        return None
    original = _distribution(top_items, readout, readout.weights)
    distances = []
    for permutation in _permutations(top_items, n_permutations, seed).unbind(1):
        permuted = readout.weights.gather(2, permutation[:, None].expand_as(readout.weights))
        distances.append((_distribution(top_items, readout, permuted) - original).abs().sum(1).double() / 2)
    return readout.weights.mean(1).amax(1), torch.stack(distances).quantile(0.5, dim=0)


def _distribution(top_items: TopItems, readout: ReadoutWeights, weights: Tensor) -> Tensor:
    """Probabilities of all items for these attention weights, (B, N)."""
    scores = readout.scores(readout.parts(weights).sum(1)).float()
    return scores.masked_fill(~top_items.recommendable, float("-inf")).softmax(1)


def _permutations(top_items: TopItems, n: int, seed: int) -> Tensor:
    """The event whose weight each event gets, (B, P, L); padding does not move."""
    batch = top_items.batch
    sources = np.tile(np.arange(batch.items.shape[1]), (len(batch.items), n, 1))
    for user, (history, item) in enumerate(zip(histories(batch), top_items.items.tolist(), strict=True)):
        generator = random_generator(seed, history, item, PERMUTED)
        sources[user, :, : len(history)] = generator.permuted(sources[user, :, : len(history)], axis=1)
    return torch.from_numpy(sources).to(batch.items.device)
