"""Training settings (the TOML table [train]) and the choice of the device."""

from typing import Literal

import torch
from pydantic import Field

from attnrec.config import Config
from attnrec.evaluation.metrics import RANK_METRICS
from attnrec.precision import Precision
from attnrec.training.augmentation import AugmentConfig


class TrainConfig(Config):
    """Training settings, the TOML table [train].

    Attributes:
        epochs: maximum number of passes over the training windows. Default 100.
        batch_size: training windows per optimizer step, over all processes. Default 64.
        microbatch_tokens: approximate number of positions (padding included) per micro-batch. A step computes its
            windows in micro-batches and accumulates the gradients: a smaller value takes less memory and gives the same
            step up to rounding and dropout. None, the default, is 4,096 on the CPU, where small micro-batches stay in
            cache, and the whole batch on a GPU.
        learning_rate: learning rate of AdamW after the warm-up. Default 1e-3.
        warmup_steps: steps over which the learning rate rises linearly to `learning_rate`. Default 100.
        schedule: "constant" (default), or "cosine": the learning rate falls to 0 at the end of `epochs`
            (Loshchilov & Hutter 2017, arXiv:1608.03983). Early stopping may end training before that.
        weight_decay: decoupled weight decay of weight matrices; biases, norms and embeddings have none. Default 0.01.
        clip_norm: maximum gradient norm; larger gradients are scaled down to it. Default 1.0.
        ema_decay: decay of the exponential moving average of the weights. The averaged weights are validated and kept;
            0 uses the weights themselves. Default 0.999.
        augment: augmentation of the training windows, the table [train.augment]; off by default.
        patience: training stops after this many epochs without a better validation metric. Default 10.
        metric: validation metric that selects the best epoch, such as "ndcg_at_10" (default). Higher is better.
        validation_users: maximum number of users to validate on, the same sample in every epoch; None is all users.
            Default 10,000.
        max_minutes: time limit of training in minutes, summed over restarts; the best epoch so far is kept. None, the
            default, is no limit.
        clock: how all training times are measured: "wall_time" (default), or "cpu_time", the CPU time of all threads of
            this process. Use "cpu_time" to compare models on a CPU that runs other work too; with one thread it equals
            the wall time on an idle machine.
        checkpoint_minutes: minutes between two checkpoints inside an epoch; each epoch ends with a checkpoint, too.
            Default 5.
        precision: "auto" (default) uses bfloat16 matrix products if they are faster on the device, else float32;
            "float32" and "bfloat16" force one of them (see `attnrec.precision`).
        compile: run the model through torch.compile; the first steps then take a minute or more. Default false.
        device: "auto" (default) is CUDA if a GPU is available, else the CPU; otherwise a torch device such as "cuda:1".
        processes: number of data-parallel processes, one device each. The pipelines start them; start other scripts
            with torchrun. Default 1.
        seed: seed of weights, dropout and the order of batches. Default 0.
        threads: number of torch's CPU threads; None, the default, keeps torch's setting.
    """

    epochs: int = Field(default=100, gt=0)
    batch_size: int = Field(default=64, gt=0)
    microbatch_tokens: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
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
    """Return the torch device of `TrainConfig.device`.

    Raises:
        ValueError: for CUDA without a GPU, or an unknown device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} needs a CUDA GPU that torch can use, found none; use device = 'auto'")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {name!r}; change the setting") from error
