"""The divergence guard: a loss or gradient that is not finite ends the run, and what it saw is kept."""

import math
from pathlib import Path

import torch
from torch import Tensor

from attnrec.dataset import Windows
from attnrec.storage import write_json
from attnrec.training.checkpoint import Progress
from attnrec.training.step import StepReport


class DivergenceError(ArithmeticError):
    """Loss or gradient is no longer a finite number.

    Attributes:
        epoch, batch: where, from 1.
        kept: the file that has the step and its batch (before augmentation, of all processes), where there is a
            folder for it.
    """

    def __init__(self, message: str, *, epoch: int, batch: int, kept: Path | None) -> None:
        super().__init__(message)
        self.epoch, self.batch, self.kept = epoch, batch, kept


class DivergenceCheck:
    """Looks at the losses, every so many steps, so that a GPU need not wait for each.

    Args:
        windows: where a batch can be had again.
        checkpoint: whose folder a diverged step is written to.
        every: steps between two looks.
    """

    def __init__(self, windows: Windows, checkpoint: Path | None, *, every: int) -> None:
        self.windows, self.every = windows, every
        self.folder = None if checkpoint is None else checkpoint.parent
        self.pending: list[tuple[Tensor, Tensor, int, int, int]] = []

    @property
    def n_waiting(self) -> int:
        """Targets of the steps not looked at yet."""
        return sum(n_targets for _, _, n_targets, _, _ in self.pending)

    def take(self, step: StepReport, progress: Progress) -> float:
        """Remember a step; returns the summed loss of those looked at now, 0 if it is not yet time.

        Raises:
            DivergenceError: for the first step that is not finite.
        """
        self.pending.append((step.loss, step.norm, step.n_targets, progress.epoch, progress.batch))
        return self.flush() if len(self.pending) >= self.every else 0.0

    def flush(self) -> float:
        """Look at all steps taken since, and return their losses, summed over targets."""
        if not self.pending:
            return 0.0
        steps, self.pending = self.pending, []
        seen = torch.stack([torch.stack([loss.double(), norm.double()]) for loss, norm, *_ in steps]).tolist()
        total = 0.0
        for (loss, norm), (_, _, n_targets, epoch, batch) in zip(seen, steps, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._raise(loss, norm, epoch, batch)
            total += loss * n_targets
        return total

    def _raise(self, loss: float, norm: float, epoch: int, number: int) -> None:
        value = loss if not math.isfinite(loss) else norm
        kept = None
        if self.folder is not None:
            kept = self.folder / "diverged.json"
            batch = next(self.windows.epoch(epoch, first_batch=number, all_processes=True))
            facts = {"epoch": epoch + 1, "batch": number + 1, "loss": str(loss), "gradient_norm": str(norm)}
            columns = {"items": batch.items, "times": batch.times, "targets": batch.targets}
            facts |= {name: column.tolist() for name, column in columns.items() if column is not None}
            write_json(kept, facts)  # all processes write the same: whoever ends first may end the others
        raise DivergenceError(
            f"loss and gradient must stay finite, got {value} in epoch {epoch + 1}, batch {number + 1}; "
            "lower train.learning_rate" + (f"; step and batch are in {kept}" if kept else ""),
            epoch=epoch + 1,
            batch=number + 1,
            kept=kept,
        )
