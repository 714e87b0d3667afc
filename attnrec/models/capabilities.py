"""Optional capabilities of a model: what attribution methods, analyses and explanations use beyond its scores.

They call these methods and check no model classes, so they support a model of another package that implements them.
The result None (or an empty dict) means that a model does not have the capability.
Shapes: B users, L positions, n requested items, D channels.
"""

from torch import Tensor

from attnrec.dataset import Batch
from attnrec.models.attention_weights import AttentionLayers, ReadoutWeights
from attnrec.models.encoded_histories import EncodedHistories
from attnrec.models.head_weights import Head


class OptionalCapabilities:
    """Base class of `Model` with the defaults of all optional capabilities."""

    @property
    def exact_reasons(self) -> bool:
        """Whether scores are sums over the history, so that `contributions` exist."""
        return True

    def readout_weights(self, batch: Batch) -> ReadoutWeights | None:
        """Return the attention weights of the readout, where the user vector is a sum of weighted values."""
        del batch
        return None

    def attention_layers(self, batch: Batch) -> AttentionLayers | None:
        """Return the attention weights of the encoder's layers, the first closest to the items."""
        del batch
        return None

    def attended_values(self, batch: Batch) -> Tensor | None:
        """Return what attention adds to the user vector from each event, (B, L, D); 0 at padding.

        By default the weighted values of the readout, where `contributions` are exact.
        """
        readout = self.readout_weights(batch) if self.exact_reasons else None
        return None if readout is None else readout.parts(readout.weights) * batch.real[..., None]

    def encode_vectors(self, batch: Batch, vectors: Tensor) -> EncodedHistories | None:
        """Encode histories whose events have the given item vectors, (B, L, D); gradients flow to them.

        Gradient-based attribution needs it, together with `item_vectors`.
        """
        del batch, vectors
        return None

    def head_weights(self) -> dict[Head, list[Tensor]]:
        """Return, for each attention head, views of the weights that remove it from the model when they are 0."""
        return {}

    def walk_probabilities(self, encoded: EncodedHistories, items: Tensor) -> Tensor | None:
        """Return the probability that a random walk starts at an event and ends at an item (B, n): (B, L, n)."""
        del encoded, items
        return None
