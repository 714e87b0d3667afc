"""One optimizer step: gradient accumulation over micro-batches, clipping, AdamW."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attnrec.dataset import Batch
from attnrec.models import Model
from attnrec.precision import reduced_precision
from attnrec.training.augmentation import augment
from attnrec.training.ema import ExponentialMovingAverage
from attnrec.training.hardware import free_memory_mb, peak_flops, peak_memory_mb
from attnrec.training.processes import ProcessGroup
from attnrec.training.settings import TrainConfig

logger = logging.getLogger(__name__)

CPU_MICROBATCH_TOKENS = 4096  # stays in cache: as fast as 12,800 (d = 64), with a third of the activations


@dataclass(frozen=True)
class StepResult:
    """Loss and counts of one step.

    Attributes:
        loss: mean over the targets of all processes, a scalar on the device.
        grad_norm: gradient norm before clipping, a scalar on the device.
        n_targets: number of targets, over all processes.
        n_tokens: number of real positions, with or without a target, over all processes.
        n_positions: number of positions, padding included, over all processes.
        stop: whether any process requested to stop.
    """

    loss: Tensor
    grad_norm: Tensor
    n_targets: int
    n_tokens: int
    n_positions: int
    stop: bool


class Stepper:
    """Takes optimizer steps; owns the optimizer and the moving average of the weights.

    Args:
        model: the model, on its device.
        config: training settings.
        n_steps: number of steps per epoch, for the learning rate schedule.
        device: device of this process.
        processes: the processes that train together.
    """

    def __init__(
        self, model: Model, config: TrainConfig, *, n_steps: int, device: torch.device, processes: ProcessGroup
    ) -> None:
        self.model, self.config, self.device, self.processes = model, config, device, processes
        self.total_steps = n_steps * config.epochs
        self.loss = torch.compile(model.loss, dynamic=True) if config.compile else model.loss
        self.optimizer = make_optimizer(model, config)
        self.ema = ExponentialMovingAverage(model, decay=config.ema_decay)
        self.oom_splits = 0
        self.peak_flops, self.flops_per_token = peak_flops(device), None

    def step(self, number: int, batch: Batch, *, stop: bool = False) -> StepResult:
        """Take step `number`, counted from 0, on this process's part of a batch.

        Raises:
            MemoryError: if the batch does not fit into memory even after halving the micro-batches.
        """
        for group in self.optimizer.param_groups:
            rate = learning_rate(self.config, number, total_steps=self.total_steps)
            group["lr"] = group["lr_multiplier"] * rate
        if not self.processes.is_main:  # a checkpoint has the main process's random state; the others derive theirs
            torch.manual_seed(self.config.seed + self.processes.rank + 1_000_003 * number)
        batch = self.model.make_targets(augment(batch, self.config.augment))
        counts = [batch.n_targets, int(batch.lengths.sum()), batch.items.numel(), float(stop)]
        n_targets, n_tokens, n_positions, stops = self.processes.sum([float(count) for count in counts], self.device)
        loss = self._loss_with_flop_count(batch, n_targets=max(1.0, n_targets), n_tokens=n_tokens)
        loss = self.processes.sum_gradients(self.model.parameters(), loss)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.ema.update(number)
        return StepResult(loss, grad_norm, int(n_targets), int(n_tokens), int(n_positions), stops > 0)

    def flops_share(self, tokens_per_second: float) -> dict[str, float]:
        """Return `train/flops_share`, the fraction of the device's peak operations; {} if the peak is unknown."""
        if self.peak_flops is None or self.flops_per_token is None:
            return {}
        total_peak = self.peak_flops * self.processes.world_size
        return {"train/flops_share": self.flops_per_token * tokens_per_second / total_peak}

    def moments(self) -> dict[str, Tensor]:
        """Return the optimizer's moments, "parameter/moment" -> tensor on the CPU."""
        return {
            f"{name}/{key}": torch.as_tensor(value).detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Restore the optimizer's moments that `moments` returned."""
        for name, parameter in self.model.named_parameters():
            state = {
                key.rsplit("/", 1)[1]: value.to(parameter.device).clone()
                for key, value in moments.items()
                if key.rsplit("/", 1)[0] == name
            }
            if state:
                self.optimizer.state[parameter] = state

    def _loss_with_flop_count(self, batch: Batch, *, n_targets: float, n_tokens: float) -> Tensor:
        """Run `_backward`; the first step on a device with a known peak also counts its matrix operations."""
        if self.peak_flops is None or self.flops_per_token is not None:
            return self._backward(batch, n_targets=n_targets)
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops}) as counter:
            loss = self._backward(batch, n_targets=n_targets)
        self.flops_per_token = counter.get_total_flops() * self.processes.world_size / max(1.0, n_tokens)
        return loss

    def _backward(self, batch: Batch, *, n_targets: float) -> Tensor:
        """Compute loss and gradients, divided by n_targets; halve the micro-batches once if memory runs out."""
        random_state = torch.get_rng_state()
        try:
            return self._accumulate_gradients(batch, n_targets=n_targets)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            can_split = self.model.supports_micro_batches and len(next(self._microbatches(batch)).lengths) > 1
            if self.oom_splits or not can_split:
                raise MemoryError(self._out_of_memory_message(batch)) from None
        self.oom_splits = 1
        torch.set_rng_state(random_state)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("a step ran out of memory: from now on each step is split into twice as many micro-batches")
        return self._backward(batch, n_targets=n_targets)

    def _accumulate_gradients(self, batch: Batch, *, n_targets: float) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for microbatch in self._microbatches(batch):
            with reduced_precision(self.config.precision, self.device):
                loss = self.loss(microbatch) * (microbatch.n_targets / n_targets)
                loss.backward()
            total += loss.detach()
        return total

    def _microbatches(self, batch: Batch) -> Iterator[Batch]:
        n_windows, width = batch.items.shape
        if not n_windows:
            return
        default = CPU_MICROBATCH_TOKENS if self.device.type == "cpu" else n_windows * width
        limit = self.config.microbatch_tokens or default
        n_parts = -(-n_windows * width // limit) if self.model.supports_micro_batches else 1
        size = max(1, -(-n_windows // (n_parts << self.oom_splits)))
        for first in range(0, n_windows, size):
            yield batch.slice(first, first + size) if size < n_windows else batch

    def _out_of_memory_message(self, batch: Batch) -> str:
        n_windows, width = next(self._microbatches(batch)).items.shape
        n_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"a step must fit into memory, got a micro-batch of {n_windows} windows x {width} positions = "
            f"{n_windows * width:,} tokens and {n_parameters:,} parameters x 5 (weights, gradients, two moments, "
            f"moving average) x 4 bytes = {n_parameters * 20 / 2**20:,.0f} MB; peak use was "
            f"{peak_memory_mb(self.device):,.0f} MB, {free_memory_mb(self.device):,.0f} MB are free; lower "
            f"train.microbatch_tokens, train.batch_size (now {self.config.batch_size}), model.max_length or model.dim"
        )


def learning_rate(config: TrainConfig, step: int, *, total_steps: int) -> float:
    """Return the learning rate of step `step`, counted from 0: linear warm-up, then `config.schedule`."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return config.learning_rate * warmup
    fraction = min(1.0, step / max(1, total_steps))
    return config.learning_rate * warmup * (1 + math.cos(math.pi * fraction)) / 2


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    """Return fused AdamW with one parameter group per learning rate multiplier and weight decay.

    Matrices have weight decay; embeddings, norms and biases do not. The multipliers are `Model.lr_multipliers`.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        multipliers = (value for part, value in model.lr_multipliers.items() if f"{name}.".startswith(f"{part}."))
        decays = parameter.ndim == 2 and "embedding" not in name
        groups.setdefault((next(multipliers, 1.0), decays), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": config.weight_decay * decays, "lr_multiplier": multiplier}
        for (multiplier, decays), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _addmm_flops(_: list[int], left: list[int], right: list[int], **__: object) -> int:
    """Count the operations of `out += left @ right` from the shapes; torch's counter lacks the in-place variant."""
    return 2 * left[0] * left[1] * right[1]


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
