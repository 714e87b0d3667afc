"""Training: settings, the training loop, checkpoints, warm start and data-parallel processes."""

from attnrec.training.augmentation import AugmentConfig
from attnrec.training.divergence import DivergenceError
from attnrec.training.loop import train
from attnrec.training.result import TrainingResult
from attnrec.training.settings import TrainConfig, choose_device
from attnrec.training.warm_start import WarmStart

__all__ = ["AugmentConfig", "DivergenceError", "TrainConfig", "TrainingResult", "WarmStart", "choose_device", "train"]
