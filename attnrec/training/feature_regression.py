"""Ridge regression from item features to parameter rows (Hoerl & Kennard 1970, doi:10.2307/1267351).

It predicts the initial rows of new items in a warm start. The penalty is the one in `PENALTIES` with the least
generalised cross-validation error (Golub, Heath & Wahba 1979, doi:10.2307/1268518). A penalty p shrinks the effect of a
category of c items by the factor c / (c + p).
Shapes: N item rows, P columns of the design matrix, D channels of a parameter, R principal components of the features.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Features
from attnrec.training.design_matrix import shared_design_matrices

PENALTIES = tuple(10.0**power for power in range(-4, 5))
MIN_VARIANCE = 1e-12  # relative to the largest variance: components below it are rounding errors


class FeatureRegression:
    """Ridge regression from item features onto an earlier model's parameter rows.

    Args:
        old: features of the earlier catalogue.
        new: features of the new catalogue.
        train_rows: rows of the earlier catalogue to fit on, (N,) bool; rows without a feature value are left out.

    Attributes:
        has_prediction: rows of the new catalogue that get a prediction, (N',) bool: those with a feature value; none
            if there is no row to fit on.

    Raises:
        ValueError: for a column that has another type or width in the new catalogue.
    """

    def __init__(self, old: Features, new: Features, *, train_rows: NDArray[np.bool_]) -> None:
        self.old, self.new = shared_design_matrices(old, new, train_rows=train_rows)
        self.train_rows = train_rows & self.old.has_value
        self.has_prediction = self.new.has_value & self.train_rows.any()
        self.n_train = max(1, int(self.train_rows.sum()))
        sums, gram = np.zeros(self.old.width), np.zeros((self.old.width, self.old.width))
        for block, rows in self.old.blocks():
            block = block[self.train_rows[rows]]
            sums += block.sum(0)
            gram += block.T @ block
        self.mean = sums / self.n_train
        eigenvalues, eigenvectors = np.linalg.eigh(gram - np.outer(sums, self.mean))
        kept = eigenvalues > MIN_VARIANCE * max(1.0, eigenvalues.max(initial=0.0))
        self.eigenvalues, self.eigenvectors = eigenvalues[kept], eigenvectors[:, kept]  # (R,), (P, R)

    def predict(self, values: Tensor) -> Tensor:
        """Predict a row for every item of the new catalogue; only the rows in `has_prediction` are meaningful.

        Args:
            values: the earlier model's rows, (N, D) or (N,).

        Returns:
            (N', D) or (N',), in the dtype of `values`.
        """
        targets = values.detach().cpu().double().reshape(len(values), -1).numpy()
        mean = targets[self.train_rows].mean(0)
        projected = self.eigenvectors.T @ self._features_times(targets - mean)  # (R, D)
        total = float(((targets[self.train_rows] - mean) ** 2).sum())
        penalty = self._best_penalty((projected**2).sum(1) / self.eigenvalues, total)
        weights = self.eigenvectors @ (projected / (self.eigenvalues + penalty)[:, None])  # (P, D)
        rows = np.concatenate([mean + (block - self.mean) @ weights for block, _ in self.new.blocks()])
        return torch.from_numpy(rows).to(values.dtype).reshape(-1, *values.shape[1:])

    def fingerprint_parts(self) -> Iterator[bytes]:
        """Iterate over the inputs of the predictions other than the values, for a hash."""
        for matrix in (self.old, self.new):
            yield repr(matrix.width).encode()
            yield from (array.tobytes() for array in (matrix.ones, matrix.numeric))
        yield self.train_rows.tobytes()

    def _features_times(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the transposed design matrix times the values, over the training rows, (P, D)."""
        total = np.zeros((self.old.width, values.shape[1]))
        for block, rows in self.old.blocks():
            selected = self.train_rows[rows]
            total += block[selected].T @ values[rows][selected]
        return total

    def _best_penalty(self, explained: NDArray[np.float64], total: float) -> float:
        """Return the penalty with the least (squared error) / (residual degrees of freedom)^2."""
        unexplained = max(0.0, total - float(explained.sum()))
        errors = []
        for penalty in PENALTIES:
            shrinkage = penalty / (self.eigenvalues + penalty)
            freedom = max(1e-9, self.n_train - 1 - len(self.eigenvalues) + float(shrinkage.sum()))
            errors.append((unexplained + float((shrinkage**2 * explained).sum())) / freedom**2)
        return PENALTIES[int(np.argmin(errors))]
