"""A progress bar on the terminal, shown after two seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SHOWN_AFTER_SECONDS = 2.0


class ProgressCallback(Protocol):
    """Called with the current step and the completed fraction, 0 to 1."""

    def __call__(self, text: str, completed: float) -> None: ...


def _ignore_progress(text: str, completed: float) -> None:
    pass


@contextmanager
def progress_bar(*, enabled: bool) -> Iterator[ProgressCallback]:
    """Yield a function that moves the bar. The bar is drawn on stderr, only on a terminal, and removed at the end."""
    if not enabled:
        yield _ignore_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=1.0)
    started = time.monotonic()

    def report_progress(text: str, completed: float) -> None:
        if time.monotonic() - started > SHOWN_AFTER_SECONDS:
            bar.start()
            bar.update(task, description=text, completed=completed)

    try:
        yield report_progress
    finally:
        bar.stop()
