"""What a model returns for histories: scores, contributions of events, and attention weights.

Shapes: B users, L positions, n requested items, N = n_items + 1 item rows (row 0 is padding).
"""

from typing import Protocol

from torch import Tensor


class EncodedHistories(Protocol):
    """B histories, encoded once; scores and contributions are computed from it."""

    @property
    def weights(self) -> Tensor | None:
        """Attention weight of each event, mean over heads, (B, L); None for a model without attention weights."""
        ...

    def scores(self, items: Tensor | None = None) -> Tensor:
        """Return the scores of all item rows, (B, N), or of the rows `items` (B, n), (B, n)."""
        ...

    def contributions(self, items: Tensor) -> Tensor:
        """Return the contribution of each event to the scores of `items` (B, n): (B, L, n), 0 at padding."""
        ...
