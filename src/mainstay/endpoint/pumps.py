"""All pumps of an endpoint process: its own thread, and processes while there is much to carry.

Threads of one process wait for each other at the interpreter's lock, processes do not; but each costs memory. So one
thread carries everything until it is busy for a good part of the time, and processes are started, which take over what
it carries and what comes: in the thread it would share that lock with the event loop. When there has been little to do
for a while they end as soon as they have nothing left.

Guarantees, tested in tests/unit/endpoint/test_pumps.py: a pair that is moved to another pump loses no byte; after `cut`
returned the pairs that it picked are gone, wherever they were; a process that dies costs its own connections only, and
gets a successor when one is needed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import structlog

from mainstay.endpoint import limits
from mainstay.endpoint.carrier import Carrier, Tag
from mainstay.endpoint.pump_process import PumpProcess
from mainstay.endpoint.pump_thread import PumpThread

T = TypeVar("T")
log = structlog.get_logger()


class Pumps:
    """Must be used from one event loop, that of the main thread. `on_closed` is called when a pair is gone."""

    def __init__(
        self,
        on_closed: Callable[[Tag], None],
        *,
        processes_max: int = 0,
        busy_share: float = limits.PUMP_BUSY_SHARE,
        idle_s: float = limits.PUMP_IDLE_S,
    ) -> None:
        self._on_closed = on_closed
        self._processes_max = processes_max
        self._busy_share = busy_share
        self._idle_s = idle_s
        self._thread = PumpThread(on_closed)
        self._processes: list[PumpProcess] = []  # those that take connections
        self._ending: set[PumpProcess] = set()  # those that do not, any more or yet
        self._numbers = itertools.count(1)
        self._moving = asyncio.Lock()  # held while pairs are with no pump, and while pairs are cut
        self._growing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looked = (0.0, 0.0)  # when, and how long all had been busy by then, in s
        self._busy_at = self._failed_at = float("-inf")
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Resets every pair. When it returns no process of them is left."""
        if self._timer is not None:
            self._timer.cancel()
        async with self._moving:
            if self._growing is not None:
                self._growing.cancel()
            await asyncio.gather(*(one.stop() for one in self._all()))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, client: socket.socket, engine: socket.socket, tag: Tag) -> None:
        """Takes over two connected, non-blocking sockets."""
        _least_loaded(self._takers()).add(client, engine, next(self._numbers), tag)
        self._watch()

    async def cut(self, doomed: Callable[[Tag], bool]) -> int:
        """Resets both ends of the pairs that `doomed` picks; how many they were. When it returns they are gone."""

        async def cut() -> int:
            async with self._moving:
                return sum(await asyncio.gather(*(one.cut(doomed) for one in self._all())))

        return await asyncio.shield(self._spawn(cut()))  # whoever gives up waiting has still asked for it

    async def grow(self) -> None:
        """Starts the processes that there may be, and gives them what the thread carries, or as much of it as can be
        moved in one go. Joins in if that is being done already.
        """
        await asyncio.shield(self._growth())

    def _growth(self) -> asyncio.Task[None]:
        if self._growing is None:
            self._growing = self._spawn(self._grow())
            self._growing.add_done_callback(self._grown)
        return self._growing

    async def _grow(self) -> None:
        started: list[PumpProcess] = []
        try:
            for core in itertools.islice(self._cores(), self._processes_max - len(self._processes)):
                started.append(PumpProcess(self._on_closed, self._over, core))
                self._ending.add(started[-1])
        except OSError as error:
            log.error("endpoint.pump_not_started", reason=error.strerror)
            self._failed_at = self._loop.time()
        ready = await asyncio.gather(*(one.ready() for one in started))
        self._watch()
        self._busy_at = self._loop.time()
        async with self._moving:
            for one in itertools.compress(started, ready):
                if one.alive:  # it may have died since
                    self._ending.discard(one)
                    self._processes.append(one)
                    log.info("endpoint.pump_started", pid=one.pid)
            if self._processes:
                for pair, tag, client, engine in await self._thread.release(limits.PUMP_MOVED_AT_ONCE):
                    _least_loaded(self._processes or [self._thread]).add(client, engine, pair, tag)

    def _cores(self) -> Iterator[int]:
        """Where to start processes, first those cores that have none. Left to the kernel, two are often on one core
        while another has nothing to do; whatever else runs on theirs it moves away.
        """
        cores = sorted(os.sched_getaffinity(0))
        taken = Counter(one.core for one in self._processes)
        return itertools.cycle(sorted(cores, key=lambda core: taken[core]))

    def state(self) -> list[dict[str, int | None]]:
        """Each pump's process, None for the thread, and how many connections it carries."""
        return [
            {"pid": one.pid if isinstance(one, PumpProcess) else None, "connections": len(one.tags)}
            for one in self._all()
        ]

    def _all(self) -> list[Carrier]:
        return [self._thread, *self._processes, *self._ending]

    def _takers(self) -> list[Carrier]:
        """Those that a new connection may go to."""
        if self._loop.time() - self._busy_at > self._idle_s:
            return [self._thread]
        return [one for one in self._processes if one.keeps_up] or [self._thread]

    def _busy_s(self) -> float:
        return sum(one.busy_s() for one in (self._thread, *self._processes))

    def _watch(self) -> None:
        """Begins to look, unless that is so already."""
        if self._timer is None and self._processes_max:
            self._looked = (self._loop.time(), self._busy_s())
            self._timer = self._loop.call_later(limits.PUMP_LOOK_INTERVAL_S, self._look)

    def _look(self) -> None:
        """Whether there is so much to do that processes are worth it, or so little that they are not."""
        now_s, busy_s = self._loop.time(), self._busy_s()
        share = (busy_s - self._looked[1]) / max(now_s - self._looked[0], 1e-3)
        self._looked = (now_s, busy_s)
        if share >= self._busy_share:
            self._busy_at = now_s
            if self._crowded(now_s):
                self._growth()
        elif now_s - self._busy_at > self._idle_s:
            for one in [one for one in self._processes if not one.tags]:
                self._processes.remove(one)
                self._ending.add(one)
                self._spawn(one.stop())
        self._timer = None
        if len(self._thread.tags) > 1 or self._processes or self._growing is not None:
            self._timer = self._loop.call_later(limits.PUMP_LOOK_INTERVAL_S, self._look)

    def _crowded(self, now_s: float) -> bool:
        """Whether the thread carries what processes could."""
        if len(self._thread.tags) < 2:
            return False
        return len(self._processes) == self._processes_max or now_s - self._failed_at > limits.PUMP_RETRY_S

    def _grown(self, _: asyncio.Task[None]) -> None:
        self._growing = None

    def _over(self, process: PumpProcess) -> None:
        """It takes nothing more."""
        if process in self._processes:
            self._processes.remove(process)
        self._ending.add(process)
        if not process.expected:
            self._failed_at = self._loop.time()
        self._spawn(self._forget(process))

    async def _forget(self, process: PumpProcess) -> None:
        await process.gone()
        self._ending.discard(process)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _least_loaded(carriers: Sequence[Carrier]) -> Carrier:
    return min(carriers, key=lambda one: len(one.tags))
