"""The training loop: windows in, the best epoch's weights out, killed and resumed without a trace."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnrec.dataset import Batch, Histories, Holdout, Windows
from attnrec.evaluation import evaluate
from attnrec.models import Model
from attnrec.training.average import WeightAverage
from attnrec.training.bar import TrainingBar
from attnrec.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from attnrec.training.precision import reduced_precision
from attnrec.training.settings import TrainConfig, choose_device

logger = logging.getLogger(__name__)


class DivergenceError(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Fitted:
    """What training reports.

    Attributes:
        best_epoch: the epoch whose weights the model has, from 1; 0 for a model that learns nothing.
        epochs: per epoch `train/loss`, `train/tokens_per_second`, `train/seconds`, and `val/...` metrics.
        seconds: spent in training, restarts included.
        stopped: "epochs", "patience", "time" or "interrupted".
    """

    best_epoch: int
    epochs: tuple[dict[str, float], ...]
    seconds: float
    stopped: str


def train(
    model: Model,
    histories: Histories,
    *,
    validation: Holdout | None = None,
    config: TrainConfig,
    filter_viewed: bool = True,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    progress_bar: bool = True,
) -> Fitted:
    """Train `model` in place and leave it with the weights of its best epoch (the last, without validation).

    Args:
        model: untrained, for the catalogue of `histories`.
        histories: the training part.
        validation: questions that choose the epoch; None trains for exactly `config.epochs`.
        config: settings.
        filter_viewed: whether validation leaves out what a user has seen, as the final evaluation will.
        checkpoint: a file to save progress in and to go on from when it exists.
        on_epoch: called with the epoch (from 1) and its report, after a restart with the earlier ones again.
        progress_bar: show loss, validation metric and tokens/s.

    Raises:
        ValueError: for a sequence model on an unordered set, a device that is not there, a checkpoint of
            another run, or a log without anything to learn from.
        DivergenceError: when the loss is not finite, naming epoch and batch.
    """
    if model.needs_order and not histories.ordered:
        raise ValueError(f"{model.kind} needs ordered histories, got an unordered set; use gat or item_knn")
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    model.observe(histories)
    if not model.learns:
        model.to(device)
        return Fitted(best_epoch=0, epochs=(), seconds=0.0, stopped="epochs")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        questions = None if validation is None else _Questions(_sample(validation, config), filter_viewed)
        run = _Run(model.to(device), histories, questions, config, checkpoint, device)
        return run.finish(on_epoch or (lambda epoch, report: None), progress_bar)


@dataclass(frozen=True)
class _Questions:
    """What is asked after each epoch, and how."""

    holdout: Holdout
    filter_viewed: bool

    def ask(self, model: Model, metric: str) -> dict[str, float]:
        """Metrics of the model as it is."""
        ks = (int(metric.rsplit("_", 1)[-1]),)
        return evaluate(model, self.holdout, ks=ks, filter_viewed=self.filter_viewed, intervals=False).summary


class _Run:
    """One training run: the state that lives between steps."""

    def __init__(
        self,
        model: Model,
        histories: Histories,
        validation: _Questions | None,
        config: TrainConfig,
        checkpoint: Path | None,
        device: torch.device,
    ) -> None:
        self.model, self.config, self.device, self.checkpoint = model, config, device, checkpoint
        self.validation = validation
        self.windows = Windows(
            histories,
            max_length=model.max_length,
            batch_size=config.batch_size,
            next_item=model.needs_order,
            seed=config.seed,
        )
        if not len(self.windows):
            raise ValueError("training needs a user with two events, got none; ingest a longer log")
        self.optimizer = _optimizer(model, config)
        self.average = WeightAverage(model, decay=config.average)
        self.identity = _identity(model, histories, config)
        self.progress, self.best = Progress(), {}
        if checkpoint is not None and checkpoint.exists():
            self.progress, self.best = load_checkpoint(
                checkpoint, model=model, average=self.average, optimizer=self.optimizer, identity=self.identity
            )
            if self.progress.stopped:  # the budgets may have changed since
                self.progress.stopped = self._why_stop()
            logger.info("going on at epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch)

    def finish(self, on_epoch: Callable[[int, dict[str, float]], None], progress_bar: bool) -> Fitted:
        """Run the remaining epochs."""
        progress = self.progress
        for number, report in enumerate(progress.epochs, start=1):
            on_epoch(number, report)
        with TrainingBar(self.config.epochs, len(self.windows), shown=progress_bar) as bar:
            bar.resume(progress.epochs)
            try:
                while not progress.stopped:
                    self._train_epoch(bar)
                    report = self._close_epoch()
                    on_epoch(progress.epoch, report)
                    bar.epoch_done(report)
            except KeyboardInterrupt:
                if not self.best:
                    raise
                progress.stopped = "interrupted"
                logger.warning("interrupted in epoch %d: keeping epoch %d", progress.epoch + 1, progress.best_epoch)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return Fitted(progress.best_epoch, tuple(progress.epochs), progress.seconds, progress.stopped)

    def _train_epoch(self, bar: TrainingBar) -> None:
        progress, saved = self.progress, time.monotonic()
        self.model.train()
        for batch in self.windows.epoch(progress.epoch, first=progress.batch):
            started = time.monotonic()
            progress.loss_sum += self._step(batch) * int(batch.lengths.sum())
            progress.n_tokens += int(batch.lengths.sum())
            progress.batch += 1
            progress.seconds += time.monotonic() - started
            progress.epoch_seconds += time.monotonic() - started
            bar.step(progress.epoch, progress.loss_sum / progress.n_tokens, self._speed())
            if self._out_of_time():
                return
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self._save()
                saved = time.monotonic()

    def _step(self, batch: Batch) -> float:
        progress = self.progress
        step = progress.epoch * len(self.windows) + progress.batch
        factor = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        with reduced_precision(self.config.precision, self.device):
            loss = self.model.loss(batch.to(self.device))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergenceError(
                f"loss and gradient must stay finite, got {value if not math.isfinite(value) else norm} "
                f"in epoch {progress.epoch + 1}, batch {progress.batch + 1}; lower train.learning_rate"
            )
        self.optimizer.step()
        self.average.update(step)
        return value

    def _close_epoch(self) -> dict[str, float]:
        progress = self.progress
        report = {
            "train/loss": progress.loss_sum / max(1, progress.n_tokens),
            "train/tokens_per_second": self._speed(),
            "train/seconds": progress.seconds,
        }
        progress.epoch += 1
        with self.average.applied():
            self.model.refresh()
            if self.validation is None:
                self._keep(float(progress.epoch))
            else:
                found = self.validation.ask(self.model, self.config.metric)
                report |= {f"val/{name}": value for name, value in found.items()}
                self._keep(found[self.config.metric])
        progress.epochs.append(report)
        progress.stopped = self._why_stop()
        progress.batch, progress.loss_sum, progress.n_tokens, progress.epoch_seconds = 0, 0.0, 0, 0.0
        self._save()
        return report

    def _keep(self, value: float) -> None:
        if value > self.progress.best:
            self.progress.best, self.progress.best_epoch = value, self.progress.epoch
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _why_stop(self) -> str:
        if self._out_of_time():
            return "time"
        if self.progress.epoch >= self.config.epochs:
            return "epochs"
        if self.validation is not None and self.progress.epoch - self.progress.best_epoch >= self.config.patience:
            return "patience"
        return ""

    def _out_of_time(self) -> bool:
        return self.config.max_minutes is not None and self.progress.seconds > 60 * self.config.max_minutes

    def _speed(self) -> float:
        return self.progress.n_tokens / max(1e-9, self.progress.epoch_seconds)

    def _save(self) -> None:
        if self.checkpoint is not None:
            save_checkpoint(
                self.checkpoint,
                self.progress,
                model=self.model,
                average=self.average,
                best=self.best,
                optimizer=self.optimizer,
                identity=self.identity,
            )


def _optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embedding" not in name else others).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _identity(model: Model, histories: Histories, config: TrainConfig) -> str:
    """What a checkpoint must share with the run that goes on from it; budgets may change."""
    settings = config.model_dump(exclude={"epochs", "patience", "max_minutes", "checkpoint_minutes", "threads"})
    log = [histories.content_hash, histories.n_events, histories.n_items]
    facts = json.dumps([model.config.model_dump(), settings, log], sort_keys=True, default=str)
    return hashlib.sha256(facts.encode()).hexdigest()


def _sample(holdout: Holdout, config: TrainConfig) -> Holdout:
    limit = config.validation_users
    if limit is None or len(holdout.users) <= limit:
        return holdout
    chosen = np.sort(np.random.default_rng(config.seed).choice(len(holdout.users), limit, replace=False))
    return holdout.only(chosen)
