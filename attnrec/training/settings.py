"""Settings of training, and where it runs."""

from typing import Literal

import torch
from pydantic import Field

from attnrec.config import Config
from attnrec.evaluation.metrics import RANK_METRICS
from attnrec.precision import Precision
from attnrec.training.augmentation import AugmentConfig


class TrainConfig(Config):
    """How a model is trained.

    Attributes:
        epochs: at most this many passes over the training windows.
        batch_size: windows a step, over all processes.
        microbatch_tokens: a step's windows are computed in slices of about this many positions, whose gradients
            are added up: memory follows it, results do not, but for rounding and dropout. None is 4,096 on
            the CPU, where small slices stay in cache, and everything at once on a GPU.
        learning_rate: of AdamW, after `warmup_steps` of linear increase.
        schedule: "constant", or "cosine" down to 0 at the end of `epochs` (Loshchilov & Hutter 2017,
            arXiv:1608.03983); early stopping then ends before it.
        weight_decay: decoupled, on matrices; not on biases, norms and embeddings.
        clip_norm: largest gradient norm; larger ones are scaled down.
        average: decay of the moving average of the weights that is validated and kept; 0 turns it off.
        augment: changes to the windows, off by default.
        patience: epochs without a better validation metric before training stops.
        metric: the validation metric that chooses the epoch.
        validation_users: validate on at most this many users, the same in every epoch.
        max_minutes: stop after this time in training, summed over restarts; the best epoch so far is kept.
        clock: of all training times: "wall_time", or "cpu_time", the time of all threads of this process, by which models
            are compared on a CPU that others use as well (with one thread it is what a quiet machine's wall shows).
        checkpoint_minutes: save everything needed to go on this often, besides at the end of each epoch.
        precision: "auto" is bfloat16 products where the hardware has them, else float32 (see `precision`).
        compile: run the model through torch.compile; the first steps take a minute or more.
        device: "auto" is CUDA where there is one.
        processes: devices to train on, one process each, under torchrun; the flows start it themselves.
        seed: of weights, dropout and the order of batches.
        threads: of torch on the CPU; None leaves torch's choice.
    """

    epochs: int = Field(default=100, gt=0)
    batch_size: int = Field(default=64, gt=0)
    microbatch_tokens: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.999, ge=0, lt=1)
    augment: AugmentConfig = AugmentConfig()
    patience: int = Field(default=10, gt=0)
    metric: str = Field(default="ndcg_at_10", pattern=rf"^({'|'.join(RANK_METRICS)})_at_[1-9]\d*$")
    validation_users: int | None = Field(default=10_000, gt=0)
    max_minutes: float | None = Field(default=None, gt=0)
    clock: Literal["wall_time", "cpu_time"] = "wall_time"
    checkpoint_minutes: float = Field(default=5, gt=0)
    precision: Precision = "auto"
    compile: bool = False
    device: str = "auto"
    processes: int = Field(default=1, gt=0)
    seed: int = 0
    threads: int | None = Field(default=None, gt=0)


def choose_device(name: str) -> torch.device:
    """The torch device of a setting.

    Raises:
        ValueError: when CUDA is asked for where there is none, or for an unknown device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} needs a CUDA GPU that torch can see, got none; use device = 'auto'")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}; change the setting") from error
