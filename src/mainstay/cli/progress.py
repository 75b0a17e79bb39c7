"""A progress bar: what is done, bytes, rate, time left. On a terminal only; elsewhere nothing is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Show = Callable[[str, int, int], None]


@contextmanager
def bar(*, quiet: bool = False) -> Iterator[Show]:
    """What shows (doing, bytes done, bytes in all or 0)."""
    if quiet or not sys.stderr.isatty():
        yield lambda _doing, _done, _total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(doing: str, done: int, total: int) -> None:
            for description, other in tasks.items():
                progress.update(other, visible=description == doing)
            if doing not in tasks:
                tasks[doing] = progress.add_task(doing, total=total or None)
            progress.update(tasks[doing], completed=done, total=total or None)

        yield show
