"""Training progress: a progress bar on a terminal, one line per epoch on a pipe.

A line is `epoch  3/12  loss 4.812  val ndcg@10 0.0734  21,300 tokens/s`.
"""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from attnrec.evaluation.metrics import metric_label


class ProgressBar:
    """Context manager that shows training progress on stderr.

    Args:
        epochs: maximum number of epochs.
        n_batches: steps per epoch.
        metric: the validation metric to show, such as "ndcg_at_10".
        shown: False disables all output.
    """

    def __init__(self, epochs: int, n_batches: int, *, metric: str, shown: bool) -> None:
        console = Console(file=sys.stderr)
        self.on_terminal = shown and console.is_terminal
        self.on_pipe = shown and not console.is_terminal
        self.epochs, self.n_batches, self.metric = epochs, n_batches, metric
        self.validation = ""
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[values]}"),
            console=console,
            transient=True,
            disable=not self.on_terminal,
        )
        self.task = self.bar.add_task("train", total=n_batches, values="")

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def resume(self, reports: list[dict[str, float]]) -> None:
        """Show the validation metric of the last epoch before a restart."""
        if reports:
            self.validation = self._validation(reports[-1])

    def step(self, epoch: int, loss: float, tokens_per_second: float) -> None:
        """Advance by one batch of epoch `epoch`, counted from 0."""
        if self.on_terminal:
            values = self._values(loss, tokens_per_second)
            self.bar.update(self.task, advance=1, description=self._epoch(epoch + 1), values=values)

    def finish_epoch(self, epoch: int, report: dict[str, float]) -> None:
        """Show the report of epoch `epoch`, counted from 1, after its validation."""
        self.validation = self._validation(report)
        self.bar.reset(self.task, total=self.n_batches)
        if self.on_pipe:
            values = self._values(report["train/loss"], report["train/tokens_per_second"])
            print(f"{self._epoch(epoch)}  {values}", file=sys.stderr, flush=True)

    def _epoch(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"

    def _values(self, loss: float, tokens_per_second: float) -> str:
        return f"loss {loss:5.3f}{self.validation}  {tokens_per_second:7,.0f} tokens/s"

    def _validation(self, report: dict[str, float]) -> str:
        value = report.get(f"val/{self.metric}")
        return "" if value is None else f"  val {metric_label(self.metric)} {value:.4f}"
