"""Divergence check: training stops on a non-finite loss or gradient and saves the batch that caused it."""

import math
from pathlib import Path

import torch
from torch import Tensor

from attnrec.dataset import Windows
from attnrec.storage import write_json
from attnrec.training.checkpoint import Progress
from attnrec.training.step import StepResult


class DivergenceError(ArithmeticError):
    """The loss or the gradient norm is not finite.

    Attributes:
        epoch, batch: position of the step, counted from 1.
        dump_path: JSON file with the step and its batch (before augmentation, of all processes); None for a run
            without a checkpoint path.
    """

    def __init__(self, message: str, *, epoch: int, batch: int, dump_path: Path | None) -> None:
        super().__init__(message)
        self.epoch, self.batch, self.dump_path = epoch, batch, dump_path


class DivergenceCheck:
    """Checks losses and gradient norms every `every` steps, so that a GPU is not synchronised at each step.

    Args:
        windows: reproduces the batch of a diverged step.
        checkpoint: path of the checkpoint; the diverged step is written to its folder.
        every: number of steps between two checks.
    """

    def __init__(self, windows: Windows, checkpoint: Path | None, *, every: int) -> None:
        self.windows, self.every = windows, every
        self.folder = None if checkpoint is None else checkpoint.parent
        self.pending: list[tuple[Tensor, Tensor, int, int, int]] = []

    @property
    def n_pending_targets(self) -> int:
        """Number of targets of the steps not checked yet."""
        return sum(n_targets for _, _, n_targets, _, _ in self.pending)

    def add(self, step: StepResult, progress: Progress) -> float:
        """Add a step, check all pending steps when `every` of them are pending, and return their summed loss, else 0.

        Raises:
            DivergenceError: for the first step that is not finite.
        """
        self.pending.append((step.loss, step.grad_norm, step.n_targets, progress.epoch, progress.batch))
        return self.flush() if len(self.pending) >= self.every else 0.0

    def flush(self) -> float:
        """Check all pending steps and return their loss, summed over targets."""
        if not self.pending:
            return 0.0
        steps, self.pending = self.pending, []
        values = torch.stack([torch.stack([loss.double(), norm.double()]) for loss, norm, *_ in steps]).tolist()
        total = 0.0
        for (loss, grad_norm), (_, _, n_targets, epoch, batch) in zip(values, steps, strict=True):
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                self._raise(loss, grad_norm, epoch, batch)
            total += loss * n_targets
        return total

    def _raise(self, loss: float, grad_norm: float, epoch: int, batch_number: int) -> None:
        name, value = ("loss", loss) if not math.isfinite(loss) else ("gradient norm", grad_norm)
        step = epoch * len(self.windows) + batch_number + 1
        dump_path = None
        if self.folder is not None:
            dump_path = self.folder / "diverged.json"
            batch = next(self.windows.epoch(epoch, first_batch=batch_number, all_processes=True))
            content = {
                "epoch": epoch + 1,
                "batch": batch_number + 1,
                "loss": str(loss),
                "gradient_norm": str(grad_norm),
            }
            columns = {"items": batch.items, "times": batch.times, "targets": batch.targets}
            content |= {name: column.tolist() for name, column in columns.items() if column is not None}
            write_json(dump_path, content)  # every process writes the same: the first to exit may end the others
        raise DivergenceError(
            f"training stops on a non-finite {name} at step {step} (epoch {epoch + 1}, batch {batch_number + 1}), "
            f"got {value}; lower train.learning_rate" + (f"; the batch is saved in {dump_path}" if dump_path else ""),
            epoch=epoch + 1,
            batch=batch_number + 1,
            dump_path=dump_path,
        )
