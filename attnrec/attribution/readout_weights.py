"""Readouts as what they are: weights of events, and what is weighed.

Shapes: B users, H heads, L positions, D channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from attnrec.dataset import Batch
from attnrec.models import GAT, Model, SequenceModel
from attnrec.models.sequence.readouts import ItemSum, Pooling


@dataclass(frozen=True, eq=False)
class ReadoutWeights:
    """Histories as a readout weighs them.

    Attributes:
        weights: shares of each event, (B, H, L).
        parts: weights of this shape to what each event adds to the user, (B, L, D); linear in them.
    """

    weights: Tensor
    parts: Callable[[Tensor], Tensor]

    def by_head(self) -> list[Tensor]:
        """What each event adds through each head alone, H times (B, L, D)."""
        heads = []
        for head in range(self.weights.shape[1]):
            alone = self.weights.new_zeros(self.weights.shape)
            alone[:, head] = self.weights[:, head]
            heads.append(self.parts(alone))
        return heads


def weigh(model: Model, batch: Batch) -> ReadoutWeights | None:
    """What the model's readout does with these histories; None where the user is no sum of weighted values."""
    if isinstance(model, GAT):
        vectors = model.item_vectors()[batch.items]
        values, pooling = model.values(vectors), model.pooling
        return ReadoutWeights(pooling.weights(model.norm(vectors), lengths=batch.lengths), lambda w: pooling.parts(w, values))
    if isinstance(model, SequenceModel) and isinstance(model.readout, (Pooling, ItemSum)):
        table, readout = model.item_vectors(), model.readout
        vectors = F.embedding(batch.items, table, padding_idx=0)
        values = readout.values(vectors)
        weights = readout.weights(model.states(vectors, batch, table), lengths=batch.lengths)
        return ReadoutWeights(weights, lambda w: readout.parts(w, values))
    return None
