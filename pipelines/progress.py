"""Progress bars and spinners for slow steps on a terminal; silent when stderr is not a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar up to `total`; call the yielded function with the number of items just completed."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda completed: progress.update(task, advance=completed)


@contextmanager
def spinner(description: str) -> Iterator[None]:
    """Show a spinner while the block runs."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield
        return
    with console.status(description):
        yield
