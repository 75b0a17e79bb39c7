"""Work shared by a few threads: compression, encryption and I/O run outside the interpreter's lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

from mainstay.model.errors import Transient

Task = TypeVar("Task")
Report = Callable[[int, int], None]

WORKERS_MAX = 8


class Cancelled(Transient):
    """The work was told to stop; nothing of it counts."""

    def __init__(self) -> None:
        super().__init__("cancelled")


def workers_default() -> int:
    """As many as there are processors for us, within bounds."""
    return max(1, min(WORKERS_MAX, len(os.sched_getaffinity(0))))


class Progress:
    """Counts bytes from several threads and reports them: `report(done, total)`."""

    def __init__(self, total: int, report: Report | None) -> None:
        self._total = total
        self._done = 0
        self._report = report
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        if self._report is None:
            return
        with self._lock:
            self._done += count
            self._report(self._done, max(self._total, self._done))


def run_parallel(
    tasks: Iterable[Task], workers: Sequence[Callable[[Task], None]], stop: threading.Event | None
) -> None:
    """Gives each task to one of the workers, each in a thread of its own, until all are done.

    After the first failure no further task is begun, and it is raised when the running ones have ended. Raises
    `Cancelled` once `stop` is set.
    """
    remaining = iter(tasks)
    end = object()
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work(worker: Callable[[Task], None]) -> None:
        while not failures and not (stop and stop.is_set()):
            try:
                with lock:
                    task = next(remaining, end)
                if task is end:
                    return
                worker(cast(Task, task))
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    if stop and stop.is_set():
        raise Cancelled
