"""Training: settings, the loop, checkpoints, warm starts, several processes."""

from attnrec.training.augmentation import AugmentConfig
from attnrec.training.divergence import DivergenceError
from attnrec.training.loop import train
from attnrec.training.result import TrainingResult
from attnrec.training.settings import TrainConfig, choose_device
from attnrec.training.warm_start import WarmStart

__all__ = ["AugmentConfig", "DivergenceError", "TrainingResult", "TrainConfig", "WarmStart", "choose_device", "train"]
