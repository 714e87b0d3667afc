"""The progress bar of training: epoch, loss, validation NDCG, tokens/s. On a pipe it prints a line per epoch."""

import logging
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

logger = logging.getLogger(__name__)


class ProgressBar:
    """Used as a context; silent when not `shown`.

    Args:
        epochs: most epochs there can be.
        n_batches: steps in an epoch.
        shown: whether to draw at all.
    """

    def __init__(self, epochs: int, n_batches: int, *, shown: bool) -> None:
        console = Console(file=sys.stderr)
        self.drawn = shown and console.is_terminal
        self.said = shown and not console.is_terminal
        self.epochs, self.n_batches = epochs, n_batches
        self.validation = ""
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
            transient=True,
            disable=not self.drawn,
        )
        self.task = self.bar.add_task("train", total=n_batches, facts="")

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def resume(self, reports: list[dict[str, float]]) -> None:
        """Show what the epochs before a restart reached."""
        if reports:
            self.epoch_done(reports[-1], said=False)

    def step(self, epoch: int, loss: float, tokens_per_second: float) -> None:
        """One batch is done."""
        if self.drawn:
            facts = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s{self.validation}"
            self.bar.update(self.task, advance=1, description=f"epoch {epoch + 1}/{self.epochs}", facts=facts)

    def epoch_done(self, report: dict[str, float], *, said: bool = True) -> None:
        """An epoch and its validation are done."""
        ndcg = {name: value for name, value in report.items() if name.startswith("val/ndcg")}
        self.validation = "".join(f"  {name} {value:.4f}" for name, value in ndcg.items())
        self.bar.reset(self.task, total=self.n_batches)
        if self.said and said:
            speed = f"{report['train/tokens_per_second']:,.0f} tokens/s"
            print(f"loss {report['train/loss']:.4f}{self.validation}  {speed}", file=sys.stderr, flush=True)
