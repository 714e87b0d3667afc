"""Training: settings, the loop, checkpoints."""

from attnrec.training.loop import DivergenceError, Fitted, train
from attnrec.training.settings import TrainConfig, choose_device

__all__ = ["DivergenceError", "Fitted", "TrainConfig", "choose_device", "train"]
