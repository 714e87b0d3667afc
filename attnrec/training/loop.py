"""The training loop: windows in, the best epoch's weights out, killed and resumed without a trace."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from attnrec.dataset import Histories, Holdout, Windows
from attnrec.models import Model
from attnrec.training.checkpoint import Progress, identity_of, load_checkpoint, save_checkpoint
from attnrec.training.divergence import DivergenceCheck
from attnrec.training.hardware import peak_memory_mb
from attnrec.training.processes import Processes, join_processes
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
    """Train `model` in place and leave it with the weights of its best epoch (the last, without validation).

    Under torchrun every process calls it with the same arguments, sees the same files and ends with the same weights.

    Args:
        model: untrained, for the catalogue of `histories`.
        histories: the training part.
        validation: questions that choose the epoch; None trains for exactly `config.epochs`.
        config: settings.
        filter_viewed: whether validation leaves out what a user has seen, as the final evaluation will.
        checkpoint: a file to save progress in and to go on from when it exists.
        init: weights and moments of an earlier model to start from.
        on_epoch: called with the epoch (from 1) and its report, after a restart with the earlier ones again.
        progress_bar: show loss, validation metric and tokens/s.

    Raises:
        ValueError: for a sequence model on an unordered set, a device that is not there, another number of
            processes than torchrun started, a checkpoint of another run, an init that does not fit (see `WarmStart`),
            or a log without anything to learn from.
        DivergenceError: when loss or gradient is not finite, naming epoch and batch.
        MemoryError: when a batch does not fit, halved once already.
    """
    if model.needs_order and not histories.ordered:
        raise ValueError(
            f"{model.kind} needs ordered histories, got an unordered set; "
            "give the log a column datetime, or take gat, ease or item_knn"
        )
    if init is not None and not model.learns:
        raise ValueError(f"init needs a model that learns in steps, got {model.kind}; leave init out")
    processes, device = join_processes(choose_device(config.device), n_processes=config.processes)
    if config.threads:
        torch.set_num_threads(config.threads)
    model.observe(histories)
    if not model.learns:
        model.to(device)
        return TrainingResult(best_epoch=0, epochs=(), seconds=0.0, stop_reason="epochs", device=str(device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed + processes.rank)
        questions = None if validation is None else ValidationSet.sample(validation, config, filter_viewed=filter_viewed)
        run = _Run(model.to(device), histories, questions, config, checkpoint, device, processes, init)
        return run.finish(on_epoch or (lambda epoch, report: None), progress_bar)


class _Run:
    """One training run: the state that lives between steps."""

    def __init__(
        self,
        model: Model,
        histories: Histories,
        validation: ValidationSet | None,
        config: TrainConfig,
        checkpoint: Path | None,
        device: torch.device,
        processes: Processes,
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
            n_processes=processes.size,
        )
        if not len(self.windows):
            raise ValueError("training needs a user with two events, got none; ingest a longer log")
        processes.share_weights(model)
        self.stepper = Stepper(model, config, n_steps=len(self.windows), device=device, processes=processes)
        self.guard = DivergenceCheck(self.windows, checkpoint, every=1 if device.type == "cpu" else 20)
        self.identity = identity_of(model, histories, config, init)
        self.progress, self.best = Progress(), {}
        self.clock = time.process_time if config.clock == "cpu_time" else time.monotonic
        if init is not None:
            init.apply(model, histories.item_ids, self.stepper)
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def _resume(self, checkpoint: Path) -> None:
        self.progress, self.best = load_checkpoint(
            checkpoint,
            model=self.model,
            average=self.stepper.average,
            optimizer=self.stepper.optimizer,
            identity=self.identity,
        )
        self.stepper.oom_splits = self.progress.oom_splits
        if self.progress.stop_reason:  # the budgets may have changed since
            self.progress.stop_reason = self._why_stop()
        if self.processes.first:
            logger.info("going on at epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch)

    def finish(self, on_epoch: OnEpoch, progress_bar: bool) -> TrainingResult:
        """Run the remaining epochs."""
        progress = self.progress
        if not self.processes.first:
            on_epoch, progress_bar = lambda epoch, report: None, False
        for number, report in enumerate(progress.epochs, start=1):
            on_epoch(number, report)
        with ProgressBar(self.config.epochs, len(self.windows), shown=progress_bar) as bar:
            bar.resume(progress.epochs)
            try:
                while not progress.stop_reason:
                    self._train_epoch(bar)
                    report = self._close_epoch()
                    on_epoch(progress.epoch, report)
                    bar.epoch_done(report)
            except KeyboardInterrupt:
                if not self.best:
                    raise
                progress.stop_reason = "interrupted"
                logger.warning("interrupted in epoch %d: keeping epoch %d", progress.epoch + 1, progress.best_epoch)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return TrainingResult(
            progress.best_epoch,
            tuple(progress.epochs),
            progress.seconds,
            progress.stop_reason,
            str(self.device),
            self.stepper.moments(),
        )

    def _train_epoch(self, bar: ProgressBar) -> None:
        progress, saved = self.progress, time.monotonic()
        self.model.train()
        started = self.clock()
        for batch in self.windows.epoch(progress.epoch, first_batch=progress.batch):
            step = self.stepper.step(self._step_number(), batch, stop=self._out_of_time())
            progress.loss_sum += self.guard.take(step, progress)
            progress.n_targets += step.n_targets
            progress.n_tokens += step.n_tokens
            progress.n_positions += step.n_positions
            progress.batch += 1
            progress.oom_splits = self.stepper.oom_splits
            now = self.clock()
            progress.seconds += now - started
            progress.epoch_seconds += now - started
            started = now
            bar.step(progress.epoch, self._mean_loss(), self._speed())
            if step.stop or (self.processes.size == 1 and self._out_of_time()):
                break
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                progress.loss_sum += self.guard.flush()
                self._save()
                saved, started = time.monotonic(), self.clock()
        progress.loss_sum += self.guard.flush()

    def _close_epoch(self) -> dict[str, float]:
        progress = self.progress
        report = {
            "train/loss": self._mean_loss(),
            "train/tokens_per_second": self._speed(),
            "train/tokens": progress.n_tokens + (progress.epochs[-1]["train/tokens"] if progress.epochs else 0),
            "train/seconds": progress.seconds,
            "train/epoch_seconds": progress.epoch_seconds,
            "train/padding": 1 - progress.n_tokens / max(1, progress.n_positions),
            "train/peak_mb": peak_memory_mb(self.device),
        } | self.stepper.flops_share(self._speed())
        progress.epoch += 1
        with self.stepper.average.applied():
            self.model.refresh()
            found = {} if self.validation is None else self._ask(self.validation)
            report |= {f"val/{name}": value for name, value in found.items()}
            self._keep(found.get(self.config.metric, float(progress.epoch)))
        progress.epochs.append(report)
        progress.stop_reason = self._why_stop()
        progress.batch, progress.loss_sum, progress.n_targets, progress.n_tokens, progress.n_positions = 0, 0.0, 0, 0, 0
        progress.epoch_seconds = 0.0
        self._save()
        return report

    def _ask(self, validation: ValidationSet) -> dict[str, float]:
        found = validation.ask(self.model, self.config.metric) if self.processes.first else {}
        return self.processes.share_values(found, self.device)

    def _keep(self, value: float) -> None:
        if value > self.progress.best:
            self.progress.best, self.progress.best_epoch = value, self.progress.epoch
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _why_stop(self) -> str:
        if self.processes.sum([float(self._out_of_time())], self.device)[0]:
            return "time"
        if self.progress.epoch >= self.config.epochs:
            return "epochs"
        if self.validation is not None and self.progress.epoch - self.progress.best_epoch >= self.config.patience:
            return "patience"
        return ""

    def _step_number(self) -> int:
        return self.progress.epoch * len(self.windows) + self.progress.batch

    def _out_of_time(self) -> bool:
        return self.config.max_minutes is not None and self.progress.seconds > 60 * self.config.max_minutes

    def _mean_loss(self) -> float:
        return self.progress.loss_sum / max(1, self.progress.n_targets - self.guard.n_waiting)

    def _speed(self) -> float:
        return self.progress.n_tokens / max(1e-9, self.progress.epoch_seconds)

    def _save(self) -> None:
        if self.checkpoint is not None and self.processes.first:
            save_checkpoint(
                self.checkpoint,
                self.progress,
                model=self.model,
                average=self.stepper.average,
                best=self.best,
                optimizer=self.stepper.optimizer,
                identity=self.identity,
            )
