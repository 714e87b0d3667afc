"""The training loop: epochs, validation, early stopping, and resuming from checkpoints."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from attnrec.dataset import Histories, Holdout, Windows
from attnrec.models import Model
from attnrec.training.checkpoint import Progress, load_checkpoint, run_fingerprint, save_checkpoint
from attnrec.training.divergence import DivergenceCheck
from attnrec.training.hardware import peak_memory_mb
from attnrec.training.processes import ProcessGroup, join_process_group
from attnrec.training.progress import ProgressBar
from attnrec.training.result import TrainingResult
from attnrec.training.settings import TrainConfig, choose_device
from attnrec.training.step import Stepper
from attnrec.training.validation import ValidationSet
from attnrec.training.warm_start import WarmStart

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], None]


def train(
    model: Model,
    histories: Histories,
    *,
    validation: Holdout | None = None,
    config: TrainConfig,
    filter_viewed: bool = True,
    checkpoint: Path | None = None,
    init: WarmStart | None = None,
    on_epoch: OnEpoch | None = None,
    progress_bar: bool = True,
) -> TrainingResult:
    """Train `model` in place and leave it with the weights of its best epoch (without validation, of its last epoch).

    Under torchrun call it with the same arguments in every process; all processes end with the same weights.

    Args:
        model: untrained model for the catalogue of `histories`.
        histories: the training part of the log.
        validation: held-out events that select the best epoch; None trains for exactly `config.epochs` epochs.
        config: training settings.
        filter_viewed: exclude items of a user's history from the ranking in validation, as in the final evaluation.
        checkpoint: path of the checkpoint file. If the file exists, training resumes from it.
        init: earlier model whose weights and moments the training starts from.
        on_epoch: called with the epoch (from 1) and its report; after a restart also for the epochs before it.
        progress_bar: show loss, validation metric and tokens/s.

    Raises:
        ValueError: for a sequence model on a log without order, an unavailable device, a number of processes that
            differs from torchrun's, a checkpoint of another run, an init that does not fit (see `WarmStart`), or a
            log without a user with two events.
        DivergenceError: if the loss or the gradient is not finite; it has the epoch and the batch.
        MemoryError: if a step does not fit into memory even after halving the micro-batches.
    """
    if model.needs_order and not histories.ordered:
        raise ValueError(
            f"{model.kind} needs ordered histories, got a log without order; "
            "add a column datetime to the log, or use gat, ease or item_knn"
        )
    if init is not None and not model.trainable:
        raise ValueError(f"init needs a model with gradient training, got {model.kind}; remove init")
    processes, device = join_process_group(choose_device(config.device), n_processes=config.processes)
    if config.threads:
        torch.set_num_threads(config.threads)
    model.observe(histories)
    if not model.trainable:
        model.to(device)
        return TrainingResult(best_epoch=0, epochs=(), seconds=0.0, stop_reason="all epochs done", device=str(device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed + processes.rank)
        users = None if validation is None else ValidationSet.sample(validation, config, filter_viewed=filter_viewed)
        run = _Run(model.to(device), histories, users, config, checkpoint, device, processes, init)
        return run.run(on_epoch or (lambda epoch, report: None), progress_bar)


class _Run:
    """State of a training run between steps."""

    def __init__(
        self,
        model: Model,
        histories: Histories,
        validation: ValidationSet | None,
        config: TrainConfig,
        checkpoint: Path | None,
        device: torch.device,
        processes: ProcessGroup,
        init: WarmStart | None,
    ) -> None:
        self.model, self.config, self.device, self.processes = model, config, device, processes
        self.checkpoint, self.validation = checkpoint, validation
        self.windows = Windows(
            histories,
            max_length=model.max_length,
            batch_size=config.batch_size,
            next_item=model.next_item_objective,
            memory_events=model.memory_events,
            seed=config.seed,
            device=device,
            process=processes.rank,
            n_processes=processes.world_size,
        )
        if not len(self.windows):
            raise ValueError("training needs a user with two events, got none; use a longer log")
        processes.broadcast_weights(model)
        self.stepper = Stepper(model, config, n_steps=len(self.windows), device=device, processes=processes)
        self.divergence_check = DivergenceCheck(self.windows, checkpoint, every=1 if device.type == "cpu" else 20)
        self.fingerprint = run_fingerprint(model, histories, config, init)
        self.progress, self.best = Progress(), {}
        self.clock = time.process_time if config.clock == "cpu_time" else time.monotonic
        if init is not None:
            init.apply(model, histories.item_ids, self.stepper)
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def _resume(self, checkpoint: Path) -> None:
        self.progress, self.best = load_checkpoint(checkpoint, stepper=self.stepper, fingerprint=self.fingerprint)
        self.stepper.oom_splits = self.progress.oom_splits
        if self.progress.stop_reason:  # the limits may have changed since
            self.progress.stop_reason = self._stop_reason()
        if self.processes.is_main:
            logger.info("resuming from epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch + 1)

    def run(self, on_epoch: OnEpoch, progress_bar: bool) -> TrainingResult:
        """Train the remaining epochs and restore the best weights."""
        progress = self.progress
        if not self.processes.is_main:
            on_epoch, progress_bar = lambda epoch, report: None, False
        for epoch, report in enumerate(progress.epochs, start=1):
            on_epoch(epoch, report)
        with ProgressBar(self.config.epochs, len(self.windows), metric=self.config.metric, shown=progress_bar) as bar:
            bar.resume(progress.epochs)
            try:
                while not progress.stop_reason:
                    self._train_epoch(bar)
                    report = self._finish_epoch()
                    on_epoch(progress.epoch, report)
                    bar.finish_epoch(progress.epoch, report)
            except KeyboardInterrupt:
                if not self.best:
                    raise
                progress.stop_reason = "interrupted"
        self._log_stop()
        self.model.load_state_dict(self.best)
        self.model.eval()
        epochs, device, moments = tuple(progress.epochs), str(self.device), self.stepper.moments()
        return TrainingResult(progress.best_epoch, epochs, progress.seconds, progress.stop_reason, device, moments)

    def _train_epoch(self, bar: ProgressBar) -> None:
        progress, saved = self.progress, time.monotonic()
        self.model.train()
        started = self.clock()
        for batch in self.windows.epoch(progress.epoch, first_batch=progress.batch):
            step = self.stepper.step(self._step_number(), batch, stop=self._out_of_time())
            progress.loss_sum += self.divergence_check.add(step, progress)
            progress.n_targets += step.n_targets
            progress.n_tokens += step.n_tokens
            progress.n_positions += step.n_positions
            progress.batch += 1
            progress.oom_splits = self.stepper.oom_splits
            now = self.clock()
            progress.seconds += now - started
            progress.epoch_seconds += now - started
            started = now
            bar.step(progress.epoch, self._mean_loss(), self._tokens_per_second())
            if step.stop or (self.processes.world_size == 1 and self._out_of_time()):
                break
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                progress.loss_sum += self.divergence_check.flush()
                self._save()
                saved, started = time.monotonic(), self.clock()
        progress.loss_sum += self.divergence_check.flush()

    def _finish_epoch(self) -> dict[str, float]:
        """Validate, update the best weights, save a checkpoint and return the epoch's report."""
        progress, speed = self.progress, self._tokens_per_second()
        report = {
            "train/loss": self._mean_loss(),
            "train/tokens_per_second": speed,
            "train/tokens": progress.n_tokens + (progress.epochs[-1]["train/tokens"] if progress.epochs else 0),
            "train/seconds": progress.seconds,
            "train/epoch_seconds": progress.epoch_seconds,
            "train/padding": 1 - progress.n_tokens / max(1, progress.n_positions),
            "train/peak_mb": peak_memory_mb(self.device),
        } | self.stepper.flops_share(speed)
        progress.epoch += 1
        with self.stepper.ema.applied():
            self.model.refresh()
            metrics = {} if self.validation is None else self._validate(self.validation)
            report |= {f"val/{name}": value for name, value in metrics.items()}
            self._update_best(metrics.get(self.config.metric, float(progress.epoch)))
        progress.epochs.append(report)
        progress.stop_reason = self._stop_reason()
        progress.batch, progress.loss_sum, progress.n_targets, progress.n_tokens, progress.n_positions = 0, 0.0, 0, 0, 0
        progress.epoch_seconds = 0.0
        self._save()
        return report

    def _validate(self, validation: ValidationSet) -> dict[str, float]:
        metrics = validation.evaluate(self.model, self.config.metric) if self.processes.is_main else {}
        return self.processes.broadcast_values(metrics, self.device)

    def _update_best(self, value: float) -> None:
        if value > self.progress.best:
            self.progress.best, self.progress.best_epoch = value, self.progress.epoch
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _stop_reason(self) -> str:
        if self.processes.sum([float(self._out_of_time())], self.device)[0]:
            return "time limit"
        if self.progress.epoch >= self.config.epochs:
            return "all epochs done"
        if self.validation is not None and self.progress.epoch - self.progress.best_epoch >= self.config.patience:
            return "no improvement"
        return ""

    def _log_stop(self) -> None:
        reason = self.progress.stop_reason
        detail = f" for {self.config.patience} epochs" if reason == "no improvement" else ""
        level = logging.WARNING if reason == "interrupted" else logging.INFO
        if self.processes.is_main:
            logger.log(level, "training stops: %s%s; best epoch %d", reason, detail, self.progress.best_epoch)

    def _step_number(self) -> int:
        return self.progress.epoch * len(self.windows) + self.progress.batch

    def _out_of_time(self) -> bool:
        return self.config.max_minutes is not None and self.progress.seconds > 60 * self.config.max_minutes

    def _mean_loss(self) -> float:
        return self.progress.loss_sum / max(1, self.progress.n_targets - self.divergence_check.n_pending_targets)

    def _tokens_per_second(self) -> float:
        return self.progress.n_tokens / max(1e-9, self.progress.epoch_seconds)

    def _save(self) -> None:
        if self.checkpoint is not None and self.processes.is_main:
            save_checkpoint(
                self.checkpoint, self.progress, stepper=self.stepper, best=self.best, fingerprint=self.fingerprint
            )
