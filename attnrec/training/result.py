"""The result of training."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TrainingResult:
    """Result of `train`.

    Attributes:
        best_epoch: the epoch whose weights the model has, counted from 1; 0 for a model without gradient training.
        epochs: one report per epoch with `train/loss` (mean over targets), `train/tokens_per_second` (real positions),
            `train/tokens` (of the run so far), `train/epoch_seconds`, `train/seconds` (of the run so far),
            `train/padding` (fraction of positions that are padding), `train/peak_mb`, on a GPU in `PEAK_FLOPS` also
            `train/flops_share` (fraction of its peak bfloat16 operations per second), and the validation metrics
            `val/...`.
        seconds: training time by `TrainConfig.clock`, summed over restarts.
        stop_reason: "all epochs done", "no improvement", "time limit" or "interrupted".
        device: the device of the training steps.
        moments: the optimizer's moments after the last step, "parameter/moment" -> tensor, for a later warm start.
    """

    best_epoch: int
    epochs: tuple[dict[str, float], ...]
    seconds: float
    stop_reason: str
    device: str = "cpu"
    moments: dict[str, Tensor] | None = None
