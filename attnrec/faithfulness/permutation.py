"""Would it matter if attention had gone elsewhere? Weights of the readout are permuted, values stay.

Jain & Wallace 2019 (Attention is not Explanation, arXiv:1902.10186, section 4.2.1).
Shapes: B users, H heads, L positions, P permutations, D channels, N = n_items + 1 item rows.
"""

import numpy as np
import torch
from torch import Tensor

from attnrec.attribution import ReadoutWeights, weigh
from attnrec.attribution.seeding import generator, histories
from attnrec.faithfulness.orders import PERMUTED
from attnrec.faithfulness.top_items import Explained
from attnrec.models import GAT, Model, SequenceModel
from attnrec.models.item_scores import VectorEncoding

N_PERMUTATIONS = 100
INTERCHANGEABLE_DISTANCE = 0.05
"""Below this total variation distance attention could as well have gone elsewhere; the limit is this project's."""


@torch.no_grad()
def permutation_test(
    model: Model, explained: Explained, *, seed: int = 0, n_permutations: int = N_PERMUTATIONS
) -> tuple[Tensor, Tensor] | None:
    """How far the distribution over items moves when attention is dealt out anew among a user's events.

    An event gets the weights of another in all heads, with values as they are; a matrix that mixes the heads comes
    after that. The distance is half the sum of |p - p'| over recommendable items, p the softmax of the scores.

    Args:
        model: in evaluation mode.
        explained: B users.
        seed: of the permutations, which depend on it, the history and the item alone.
        n_permutations: P, of which the median is taken.

    Returns:
        The largest weight of each user, mean over heads, (B,), and the median distance, (B,) float64; None for a model
        whose user is no sum of weighted values.
    """
    weighed = weigh(model, explained.batch)
    if weighed is None:
        return None
    before, dealt = (
        _distribution(model, explained, weighed, weighed.weights),
        _permutations(explained, n_permutations, seed),
    )
    distances = []
    for permutation in dealt.unbind(1):
        permuted = weighed.weights.gather(2, permutation[:, None].expand_as(weighed.weights))
        distances.append((_distribution(model, explained, weighed, permuted) - before).abs().sum(1).double() / 2)
    return weighed.weights.mean(1).amax(1), torch.stack(distances).quantile(0.5, dim=0)


def _distribution(model: Model, explained: Explained, weighed: ReadoutWeights, weights: Tensor) -> Tensor:
    """Probabilities of all items at these weights, (B, N)."""
    assert isinstance(model, (SequenceModel, GAT)), "what is weighed has a catalogue"
    users = weighed.parts(weights).sum(1)
    scores = VectorEncoding(model.item_scorer, model.item_vectors(), users, None, None).scores().float()
    return scores.masked_fill(~explained.recommendable, float("-inf")).softmax(1)


def _permutations(explained: Explained, n: int, seed: int) -> Tensor:
    """Whose weight each event gets, (B, P, L); padding keeps its own."""
    batch = explained.batch
    dealt = np.tile(np.arange(batch.items.shape[1]), (len(batch.items), n, 1))
    for user, (history, item) in enumerate(zip(histories(batch), explained.items.tolist(), strict=True)):
        random = generator(seed, history, item, PERMUTED)
        dealt[user, :, : len(history)] = random.permuted(dealt[user, :, : len(history)], axis=1)
    return torch.from_numpy(dealt).to(batch.items.device)
