"""A progress bar on stderr, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["bar"]


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """Yield what to call with (done, in all, what is being done); None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    shown: list[Progress] = []

    def update(done: int, total: int, doing: str) -> None:
        """Show the bar at the first call: what needs no time needs no bar."""
        if not shown:
            shown.append(_started())
        shown[0].update(shown[0].task_ids[0], completed=done, total=total, description=doing)

    try:
        yield update
    finally:
        for progress in shown:
            progress.stop()


def _started() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:14}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task("", total=None)
    progress.start()
    return progress
