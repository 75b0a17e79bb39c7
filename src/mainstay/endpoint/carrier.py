"""A pump as the event loop sees it, and what it carries: whether it is a thread or a process makes no difference."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class Tag(NamedTuple):
    """What a pair belongs to; decides about cuts."""

    endpoint_id: str
    epoch: int
    target: tuple[str, int]


class Carrier(ABC):
    """Carries pairs of sockets. Must be used from one event loop, where `on_closed` is called when a pair is gone."""

    def __init__(self, on_closed: Callable[[Tag], None]) -> None:
        self._on_closed = on_closed
        self.tags: dict[int, Tag] = {}
        """The pairs that it has, by number, each until it is certain that it is gone."""

    @abstractmethod
    def add(self, client: socket.socket, engine: socket.socket, pair: int, tag: Tag) -> None:
        """Takes over two connected, non-blocking sockets under a number that no other pair has."""

    async def cut(self, doomed: Callable[[Tag], bool]) -> int:
        """Resets both ends of the pairs that `doomed` picks; how many they were. When it returns they are gone."""
        pairs = [pair for pair, tag in self.tags.items() if doomed(tag)]
        return await self._cut(pairs) if pairs else 0

    @abstractmethod
    async def _cut(self, pairs: list[int]) -> int:
        """As `cut`; the tags are gone as well."""

    @abstractmethod
    def busy_s(self) -> float:
        """How long it has run, or waited for a core to run on, since it was started."""

    @abstractmethod
    async def stop(self) -> None:
        """Resets what is left. When it returns nothing is."""

    def _gone(self, pairs: Iterable[int]) -> None:
        """Nothing happens to those that were gone before."""
        for pair in pairs:
            tag = self.tags.pop(pair, None)
            if tag is not None:
                self._on_closed(tag)


def busy_s_of(task: str) -> float:
    """As `Carrier.busy_s`, of the task with this path below /proc (proc_pid_schedstat(5)). 0 if it has ended, or if the
    kernel does not count it (CONFIG_SCHED_INFO).
    """
    try:
        ran_ns, waited_ns, _ = Path("/proc", task, "schedstat").read_text().split()
    except OSError:
        return 0.0
    return (int(ran_ns) + int(waited_ns)) / 1e9
