"""One optimizer step: slices of the batch forward and backward, gradients added up, clipped, applied."""

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
from attnrec.training.processes import Processes
from attnrec.training.settings import TrainConfig

logger = logging.getLogger(__name__)

POSITIONS_ON_CPU = 4096  # a slice that stays in cache: as fast as 12,800 (d = 64), with a third of the activations


@dataclass(frozen=True)
class StepReport:
    """What one step saw.

    Attributes:
        loss: mean over the targets of all processes, a scalar on the device.
        norm: of the gradient before clipping, a scalar on the device.
        n_targets: over all processes.
        n_tokens: real positions, with a target or not, over all processes.
        n_positions: padding included, over all processes.
        stop: whether any process asked to stop.
    """

    loss: Tensor
    norm: Tensor
    n_targets: int
    n_tokens: int
    n_positions: int
    stop: bool


class Stepper:
    """Takes steps; everything a step needs, but for where the run is.

    Args:
        model: on its device.
        config: settings.
        n_steps: of an epoch, for the schedule.
        device: of this process.
        processes: who trains together.
    """

    def __init__(
        self, model: Model, config: TrainConfig, *, n_steps: int, device: torch.device, processes: Processes
    ) -> None:
        self.model, self.config, self.device, self.processes = model, config, device, processes
        self.total_steps = n_steps * config.epochs
        self.loss = torch.compile(model.loss, dynamic=True) if config.compile else model.loss
        self.optimizer = make_optimizer(model, config)
        self.average = ExponentialMovingAverage(model, decay=config.average)
        self.oom_splits = 0
        self.peak, self.flops_per_token = peak_flops(device), None

    def step(self, number: int, batch: Batch, *, stop: bool = False) -> StepReport:
        """Take step `number`, from 0, on this process's part of a batch.

        Raises:
            MemoryError: when the batch does not fit, halved once already.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["pace"] * learning_rate(self.config, number, total_steps=self.total_steps)
        if not self.processes.first:  # a checkpoint has the first one's random state: the others' follows from the step
            torch.manual_seed(self.config.seed + self.processes.rank + 1_000_003 * number)
        batch = self.model.make_targets(augment(batch, self.config.augment))
        counts = [batch.n_targets, int(batch.lengths.sum()), batch.items.numel(), float(stop)]
        n_targets, n_tokens, n_positions, stops = self.processes.sum([float(count) for count in counts], self.device)
        loss = self._counted(batch, n_targets=max(1.0, n_targets), n_tokens=n_tokens)
        loss = self.processes.sum_gradients(self.model.parameters(), loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.average.update(number)
        return StepReport(loss, norm, int(n_targets), int(n_tokens), int(n_positions), stops > 0)

    def flops_share(self, tokens_per_second: float) -> dict[str, float]:
        """`train/flops_share`: matrix operations done of those the device could do; nothing where that is not known."""
        if self.peak is None or self.flops_per_token is None:
            return {}
        return {"train/flops_share": self.flops_per_token * tokens_per_second / (self.peak * self.processes.size)}

    def moments(self) -> dict[str, Tensor]:
        """What the optimizer knows, "parameter/moment" -> tensor on the CPU."""
        return {
            f"{name}/{key}": torch.as_tensor(value).detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Go on from what `moments` gave."""
        for name, parameter in self.model.named_parameters():
            state = {
                key.rsplit("/", 1)[1]: value.to(parameter.device).clone()
                for key, value in moments.items()
                if key.rsplit("/", 1)[0] == name
            }
            if state:
                self.optimizer.state[parameter] = state

    def _counted(self, batch: Batch, *, n_targets: float, n_tokens: float) -> Tensor:
        """`_gradients`, counting the matrix operations of the first step on a device whose peak is known."""
        if self.peak is None or self.flops_per_token is not None:
            return self._gradients(batch, n_targets=n_targets)
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops}) as counter:
            loss = self._gradients(batch, n_targets=n_targets)
        self.flops_per_token = counter.get_total_flops() * self.processes.size / max(1.0, n_tokens)
        return loss

    def _gradients(self, batch: Batch, *, n_targets: float) -> Tensor:
        """Fill the gradients of the sum of losses / n_targets; a batch that does not fit is halved once."""
        random = torch.get_rng_state()
        try:
            return self._slices(batch, n_targets=n_targets)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if self.oom_splits or len(next(self._parts(batch)).lengths) < 2 or not self.model.slices:
                raise MemoryError(self._arithmetic(batch)) from None
        self.oom_splits = 1
        torch.set_rng_state(random)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("a step did not fit into memory: from now on its windows are computed in twice as many parts")
        return self._gradients(batch, n_targets=n_targets)

    def _slices(self, batch: Batch, *, n_targets: float) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self._parts(batch):
            with reduced_precision(self.config.precision, self.device):
                loss = self.loss(part) * (part.n_targets / n_targets)
                loss.backward()
            total += loss.detach()
        return total

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        n_rows, width = batch.items.shape
        if not n_rows:
            return
        limit = self.config.microbatch_tokens or (POSITIONS_ON_CPU if self.device.type == "cpu" else n_rows * width)
        n_parts = -(-n_rows * width // limit) if self.model.slices else 1
        rows = max(1, -(-n_rows // (n_parts << self.oom_splits)))
        for first in range(0, n_rows, rows):
            yield batch.slice(first, first + rows) if rows < n_rows else batch

    def _arithmetic(self, batch: Batch) -> str:
        n_rows, width = next(self._parts(batch)).items.shape
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"a step must fit into memory, got {n_rows} windows x {width} positions = {n_rows * width:,} at once "
            f"beside {parameters:,} parameters x 5 (weights, gradients, two moments, average) x 4 bytes = "
            f"{parameters * 20 / 2**20:,.0f} MB; {peak_memory_mb(self.device):,.0f} MB were in use at most, "
            f"{free_memory_mb(self.device):,.0f} MB are free; lower train.microbatch_tokens or train.batch_size "
            f"(now {self.config.batch_size}), model.max_length or model.dim"
        )


def learning_rate(config: TrainConfig, step: int, *, total_steps: int) -> float:
    """Of step number `step`, from 0: linear warm-up, then as the schedule says."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return config.learning_rate * warm
    done = min(1.0, step / max(1, total_steps))
    return config.learning_rate * warm * (1 + math.cos(math.pi * done)) / 2


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW in its fused form; matrices decay, embeddings, norms and biases do not; groups have the model's `lr_multipliers`."""
    groups: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        pace = next((pace for part, pace in model.lr_multipliers.items() if f"{name}.".startswith(f"{part}.")), 1.0)
        decays = parameter.ndim == 2 and "embedding" not in name
        groups.setdefault((pace, decays), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": config.weight_decay * decays, "pace": pace}
        for (pace, decays), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _addmm_flops(_: list[int], one: list[int], other: list[int], **__: object) -> int:
    """Of `added += one @ other`, from their shapes; torch's counter knows only the form that makes a new matrix."""
    return 2 * one[0] * one[1] * other[1]


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
