"""A progress bar on the terminal for work that takes longer than two seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SHOWN_AFTER_SECONDS = 2.0


class Step(Protocol):
    """Called with what is being done and how much of it is, 0 to 1."""

    def __call__(self, text: str, done: float) -> None: ...


def _draw_nothing(text: str, done: float) -> None:
    pass


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Step]:
    """Give a function that moves the bar; it is drawn on stderr, only on a terminal, and leaves no trace."""
    if not shown:
        yield _draw_nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=1.0)
    began = time.monotonic()

    def step(text: str, done: float) -> None:
        if time.monotonic() - began > SHOWN_AFTER_SECONDS:
            bar.start()
            bar.update(task, description=text, completed=done)

    try:
        yield step
    finally:
        bar.stop()
