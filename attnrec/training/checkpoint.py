"""Checkpoints: the complete state of a training run in one safetensors file.

The file has the weights, their moving average, the best weights so far, the optimizer's moments, the random states and
the progress.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from attnrec.dataset import Histories
from attnrec.models import Model
from attnrec.storage import save_tensors
from attnrec.training.settings import TrainConfig
from attnrec.training.step import Stepper
from attnrec.training.warm_start import WarmStart


@dataclass
class Progress:
    """Progress of a training run.

    Attributes:
        epoch, batch: the next batch to train on, counted from 0.
        seconds: training time so far, by `TrainConfig.clock`, summed over restarts.
        loss_sum, n_targets, n_tokens, n_positions: sums over the batches of the current epoch. Tokens are the real
            positions, with or without a target; positions include padding.
        epoch_seconds: time of the current epoch's training steps.
        best: best validation value so far.
        best_epoch: epoch of the best validation value, counted from 1.
        epochs: report of each finished epoch.
        stop_reason: why training ended, see `TrainingResult`; "" while it runs.
        oom_splits: how often the micro-batches were halved because a step ran out of memory, 0 or 1.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    n_targets: int = 0
    n_tokens: int = 0
    n_positions: int = 0
    epoch_seconds: float = 0.0
    best: float = float("-inf")
    best_epoch: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    stop_reason: str = ""
    oom_splits: int = 0


def save_checkpoint(
    path: Path,
    progress: Progress,
    *,
    stepper: Stepper,
    best: dict[str, Tensor],
    fingerprint: str,
) -> None:
    """Write the checkpoint to a temporary file and rename it, so that a kill leaves the old file or the new one."""
    tensors = {f"model/{name}": tensor for name, tensor in stepper.model.state_dict().items()}
    tensors |= {f"ema/{name}": tensor for name, tensor in stepper.ema.tensors().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for number, moments in stepper.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors |= _random_states()
    metadata = {"progress": json.dumps(asdict(progress)), "fingerprint": fingerprint}
    save_tensors(tensors, path, metadata=metadata)


def load_checkpoint(path: Path, *, stepper: Stepper, fingerprint: str) -> tuple[Progress, dict[str, Tensor]]:
    """Restore the stepper's model, moving average and optimizer, and the random states from a checkpoint.

    Returns:
        The progress, and the best weights so far.

    Raises:
        ValueError: if the checkpoint was written with another model, catalogue, log or settings.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if metadata["fingerprint"] != fingerprint:
        raise ValueError(
            f"a checkpoint must come from the same model, data and settings, got another run's in {path}; "
            "use a new checkpoint path"
        )
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "best": {}, "optimizer": {}, "random": {}}
    for name, tensor in tensors.items():
        group, key = name.split("/", 1)
        groups[group][key] = tensor
    stepper.model.load_state_dict(groups["model"])
    stepper.ema.load(groups["ema"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["optimizer"].items():
        number, key = name.split("/")
        moments.setdefault(int(number), {})[key] = tensor
    parameter_groups = stepper.optimizer.state_dict()["param_groups"]
    stepper.optimizer.load_state_dict({"state": moments, "param_groups": parameter_groups})
    torch.set_rng_state(groups["random"]["cpu"])
    if "cuda" in groups["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(groups["random"]["cuda"])
    fields: dict[str, Any] = json.loads(metadata["progress"])
    return Progress(**fields), groups["best"]


def run_fingerprint(model: Model, histories: Histories, config: TrainConfig, init: WarmStart | None) -> str:
    """Hash everything that must be equal for a run to resume from a checkpoint; limits such as patience may change."""
    limits = {"patience", "max_minutes", "checkpoint_minutes", "threads"}
    if config.schedule == "constant":
        limits.add("epochs")
    log = [histories.content_hash, histories.n_events, histories.n_items]
    start = None if init is None else init.fingerprint()
    content = [model.config.model_dump(), config.model_dump(exclude=limits), log, start]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _random_states() -> dict[str, Tensor]:
    states = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random/cuda"] = torch.cuda.get_rng_state()
    return states
