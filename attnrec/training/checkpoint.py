"""Everything a training run needs to go on, in one safetensors file: weights, moments, random states, counts."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from attnrec.dataset import Histories
from attnrec.models import Model
from attnrec.storage import save_tensors
from attnrec.training.ema import ExponentialMovingAverage
from attnrec.training.settings import TrainConfig
from attnrec.training.warm_start import WarmStart


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch, batch: the next batch to train on, from 0.
        seconds: spent in training so far, restarts included.
        loss_sum, n_targets, n_tokens, n_positions: of the current epoch's batches so far; tokens are real positions,
            whether they have a target or not, positions may be padding.
        epoch_seconds: spent in the current epoch's training steps.
        best: best validation value so far; best_epoch: when, counted from 1.
        epochs: what was reported after each finished epoch.
        stopped: why training ended, "" while it goes on.
        oom_splits: how often a step's slices were halved to fit into memory.
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
    model: nn.Module,
    average: ExponentialMovingAverage,
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    identity: str,
) -> None:
    """Write the checkpoint beside and rename it: a kill leaves the old one or the new one."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.tensors().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors |= _random_states()
    metadata = {"progress": json.dumps(asdict(progress)), "identity": identity}
    save_tensors(tensors, path, metadata=metadata)


def load_checkpoint(
    path: Path, *, model: nn.Module, average: ExponentialMovingAverage, optimizer: torch.optim.Optimizer, identity: str
) -> tuple[Progress, dict[str, Tensor]]:
    """Bring model, average, optimizer and random states to where the checkpoint left them.

    Returns:
        The progress, and the best weights so far.

    Raises:
        ValueError: for a checkpoint of another model, catalogue or setting.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if metadata["identity"] != identity:
        raise ValueError(f"checkpoint {path} belongs to another model, catalogue or setting; train in a new folder")
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}, "random": {}}
    for name, tensor in tensors.items():
        kind, rest = name.split("/", 1)
        groups[kind][rest] = tensor
    model.load_state_dict(groups["model"])
    average.restore(groups["average"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["optimizer"].items():
        number, key = name.split("/")
        moments.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(groups["random"]["cpu"])
    if "cuda" in groups["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(groups["random"]["cuda"])
    fields: dict[str, Any] = json.loads(metadata["progress"])
    return Progress(**fields), groups["best"]


def identity_of(model: Model, histories: Histories, config: TrainConfig, init: WarmStart | None) -> str:
    """What a checkpoint must share with the run that goes on from it; budgets may change."""
    budgets = {"patience", "max_minutes", "checkpoint_minutes", "threads"}
    if config.schedule == "constant":
        budgets.add("epochs")
    log = [histories.content_hash, histories.n_events, histories.n_items]
    start = None if init is None else init.fingerprint()
    facts = [model.config.model_dump(), config.model_dump(exclude=budgets), log, start]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _random_states() -> dict[str, Tensor]:
    states = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random/cuda"] = torch.cuda.get_rng_state()
    return states
