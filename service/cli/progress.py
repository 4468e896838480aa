"""A line on standard error that tells how far a long work is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_lines(console: Console, *, width: int = 0, disable: bool = False) -> Progress:
    """Lines of name, bar, count and time; names are as wide as `width` at least."""
    return Progress(
        TextColumn(f"{{task.description:<{width}}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=disable,
    )


@contextmanager
def progress_line(what: str, *, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """
    One line for `total` things; gives the function that is told how many are done. More than
    `total` raise it.
    """
    with progress_lines(Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done, total=max(total, done))
