"""Rows of new items, predicted from their features by ridge regression (Hoerl & Kennard 1970, doi:10.2307/1267351).

The penalty is the one of `PENALTIES` with the least generalised cross-validation error (Golub, Heath & Wahba 1979,
doi:10.2307/1268518). At penalty p, what one category adds that c items have is drawn to 0 by the factor c / (c + p).
Shapes: N item rows, P columns, D channels of a parameter, R directions in which the known items differ.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Features
from attnrec.training.design_matrix import shared_designs

PENALTIES = tuple(10.0**power for power in range(-4, 5))
SMALLEST_SHARE = 1e-12  # of the largest variance: directions below it are rounding


class FeatureRows:
    """A regression from features onto what an earlier model learned of its items.

    Args:
        old: features of the earlier catalogue.
        new: features of the new one.
        known: the earlier rows to learn from, (N,) bool; those without a feature value are left out.

    Attributes:
        predicted: the new rows that get a value, (N',) bool: those with a feature value, if there is anything known.

    Raises:
        ValueError: for a column that both have, but of another kind or width.
    """

    def __init__(self, old: Features, new: Features, *, known: NDArray[np.bool_]) -> None:
        self.old, self.new = shared_designs(old, new, known=known)
        self.learned = known & self.old.has_value
        self.predicted = self.new.has_value & self.learned.any()
        self.n_known = max(1, int(self.learned.sum()))
        sums, gram = np.zeros(self.old.width), np.zeros((self.old.width, self.old.width))
        for block, rows in self.old.blocks():
            block = block[self.learned[rows]]
            sums += block.sum(0)
            gram += block.T @ block
        self.mean = sums / self.n_known
        spread, directions = np.linalg.eigh(gram - np.outer(sums, self.mean))
        varied = spread > SMALLEST_SHARE * max(1.0, spread.max(initial=0.0))
        self.spread, self.directions = spread[varied], directions[:, varied]  # (R,), (P, R)

    def predict(self, values: Tensor) -> Tensor:
        """A row for each item of the new catalogue, of which those in `predicted` mean something.

        Args:
            values: what was learned of the earlier items, (N, D) or (N,).

        Returns:
            (N', D) or (N',), in the type of `values`.
        """
        learned = values.detach().cpu().double().reshape(len(values), -1).numpy()
        mean = learned[self.learned].mean(0)
        projected = self.directions.T @ self._products(learned - mean)  # (R, D)
        energy = float(((learned[self.learned] - mean) ** 2).sum())
        penalty = self._best_penalty((projected**2).sum(1) / self.spread, energy)
        weights = self.directions @ (projected / (self.spread + penalty)[:, None])  # (P, D)
        rows = np.concatenate([mean + (block - self.mean) @ weights for block, _ in self.new.blocks()])
        return torch.from_numpy(rows).to(values.dtype).reshape(-1, *values.shape[1:])

    def parts(self) -> Iterator[bytes]:
        """What predictions depend on besides the values, for fingerprints."""
        for design in (self.old, self.new):
            yield repr(design.width).encode()
            yield from (array.tobytes() for array in (design.ones, design.measures))
        yield self.learned.tobytes()

    def _products(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns times values over the learned rows, (P, D)."""
        total = np.zeros((self.old.width, values.shape[1]))
        for block, rows in self.old.blocks():
            chosen = self.learned[rows]
            total += block[chosen].T @ values[rows][chosen]
        return total

    def _best_penalty(self, explained: NDArray[np.float64], energy: float) -> float:
        """The penalty with the least (squared error) / (degrees of freedom left)^2."""
        unexplained = max(0.0, energy - float(explained.sum()))
        errors = []
        for penalty in PENALTIES:
            shrunk = penalty / (self.spread + penalty)
            freedom = max(1e-9, self.n_known - 1 - len(self.spread) + float(shrunk.sum()))
            errors.append((unexplained + float((shrunk**2 * explained).sum())) / freedom**2)
        return PENALTIES[int(np.argmin(errors))]
