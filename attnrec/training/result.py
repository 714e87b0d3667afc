"""What training hands back."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TrainingResult:
    """What training reports.

    Attributes:
        best_epoch: the epoch whose weights the model has, from 1; 0 for a model that learns nothing.
        epochs: per epoch `train/loss`, `train/tokens_per_second` (targets), `train/epoch_seconds`,
            `train/seconds` (of the run so far), `train/padding` (share of positions without a target),
            `train/peak_mb`, on a known GPU `train/flops_share` (of its bfloat16 peak), and `val/...` metrics.
        seconds: spent in training, restarts included.
        stopped: "epochs", "patience", "time" or "interrupted".
        device: where it ran.
        moments: of the optimizer after the last step, "parameter/moment" -> tensor, for a later warm start.
    """

    best_epoch: int
    epochs: tuple[dict[str, float], ...]
    seconds: float
    stop_reason: str
    device: str = "cpu"
    moments: dict[str, Tensor] | None = None
