"""The endpoint process's side of a pump that is a process (`pump_worker.py`).

Guarantees, tested in tests/unit/endpoint/test_pump_process.py: nothing here waits for the process except who awaits a
cut or the end; whatever becomes of the process, killed or frozen, its connections end, their tags go only when it has
ended or has said so, and nothing of it is left behind. A process that is killed resets its connections.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog

from mainstay.endpoint import limits
from mainstay.endpoint import pump_records as records
from mainstay.endpoint.carrier import Carrier, Tag, busy_s_of
from mainstay.endpoint.pump import close_with_reset, reset_when_closed
from mainstay.host.channel import RecordChannel
from mainstay.host.guardian import process_ended
from mainstay.host.records import Record

_COMMAND = (sys.executable, "-m", "mainstay.endpoint.pump_worker")
log = structlog.get_logger()


class PumpProcess(Carrier):
    """A child that carries. `on_ended` is called when it takes nothing more; its pairs may not have ended yet then."""

    def __init__(self, on_closed: Callable[[Tag], None], on_ended: Callable[[PumpProcess], None], core: int) -> None:
        """Starts it, to run on this core only. Raises `OSError` if it cannot be started. On the main thread only: a
        child lives no longer than the thread that started it (PR_SET_PDEATHSIG).
        """
        super().__init__(on_closed)
        self._on_ended = on_ended
        self.core = core
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(_COMMAND, stdin=theirs.fileno())
            except OSError:
                ours.close()
                raise
        with suppress(OSError):  # the core was taken from us just now, or the process has ended
            os.sched_setaffinity(self._process.pid, {core})
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._cuts: deque[tuple[asyncio.Future[int], list[int]]] = deque()
        self.expected = False
        """Whether it was told to end."""

        self._buried: asyncio.Task[None] | None = None
        self._channel = RecordChannel(ours, self._heard, self._ended)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it takes orders."""
        return not self._channel.closed

    @property
    def keeps_up(self) -> bool:
        """Whether it has taken all orders so far."""
        return self.alive and not self._channel.kept

    async def ready(self) -> bool:
        """Whether it can carry; False if it could not within `limits.PUMP_START_TIMEOUT_S`, and then it ends."""
        await asyncio.wait([self._ready], timeout=limits.PUMP_START_TIMEOUT_S)
        if not self._ready.done():
            log.error("endpoint.pump_start_timed_out", pid=self.pid)
            self._kill()
            return False
        return self._ready.result() and self.alive

    def add(self, client: socket.socket, engine: socket.socket, pair: int, tag: Tag) -> None:
        """See `Carrier`."""
        self.tags[pair] = tag
        try:
            if not self.alive:
                raise OSError(errno.EPIPE, "the process has ended")
            reset_when_closed(client)
            reset_when_closed(engine)
            self._channel.send(records.with_numbers(records.ADD, [pair]), (client, engine))
        except OSError as error:
            log.info("endpoint.pair_not_handed_over", endpoint_id=tag.endpoint_id, reason=error.strerror)
            close_with_reset(client)
            close_with_reset(engine)
            self._gone([pair])
            return
        client.close()
        engine.close()

    async def _cut(self, pairs: list[int]) -> int:
        cuts = []
        for part in records.in_records(pairs):
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            cuts.append(future)
            self._cuts.append((future, [*part]))
            self._channel.send(records.with_numbers(records.CUT, part))
        if self.alive:
            _, waiting = await asyncio.wait(cuts, timeout=limits.PUMP_END_TIMEOUT_S)
            if waiting:
                log.error("endpoint.pump_does_not_cut", pid=self.pid, waited_s=limits.PUMP_END_TIMEOUT_S)
                self._kill()
        await asyncio.wait(cuts)  # the rest is known when the process has ended
        return sum(future.result() for future in cuts)

    def busy_s(self) -> float:
        """See `Carrier`."""
        return busy_s_of(str(self.pid))

    async def stop(self) -> None:
        """See `Carrier`."""
        self.expected = True
        self._channel.close()  # the end of it is the order to end
        if not await self.gone(limits.PUMP_END_TIMEOUT_S):
            log.error("endpoint.pump_does_not_end", pid=self.pid, waited_s=limits.PUMP_END_TIMEOUT_S)
            self._process.kill()
            await self.gone()

    async def gone(self, timeout_s: float | None = None) -> bool:
        """Waits until the process has ended, with all that it carried. False if it has not in time, or is not going
        to.
        """
        if self._buried is None:
            return False
        done, _ = await asyncio.wait([self._buried], timeout=timeout_s)
        return bool(done)

    def _kill(self) -> None:
        self._process.kill()
        self._channel.close()

    def _heard(self, record: Record) -> None:
        letter = record.data[:1]
        try:
            if letter == records.CLOSED:
                self._gone(records.numbers_of(record.data))
            elif letter == records.CUT_DONE and self._cuts:
                count = records.number_of(record.data)
                future, pairs = self._cuts.popleft()
                self._gone(pairs)
                future.set_result(count)
            elif letter == records.DEFECT:
                log.error("endpoint.pump_failed", pid=self.pid, exception=records.defect_of(record.data))
            elif letter == records.READY and not self._ready.done():
                self._ready.set_result(True)
            else:
                raise ValueError(f"a pump does not say {letter!r}")
        except ValueError as error:
            log.error("endpoint.pump_not_understood", pid=self.pid, reason=str(error))
            self._kill()

    def _ended(self) -> None:
        """The channel has: the process ends, or is made to."""
        if not self.expected:
            self._process.kill()
        if not self._ready.done():
            self._ready.set_result(False)
        self._buried = asyncio.create_task(self._bury())
        self._on_ended(self)

    async def _bury(self) -> None:
        """Only when the process has ended are its sockets closed, whatever the channel said."""
        if self._process.poll() is None:
            await process_ended(self.pid)
        code = self._process.wait()
        lost = len(self.tags)
        cuts, self._cuts = self._cuts, deque()
        for future, pairs in cuts:
            future.set_result(sum(pair in self.tags for pair in pairs))
        self._gone([*self.tags])
        if not self.expected:
            log.warning("endpoint.pump_died", pid=self.pid, code=code, connections=lost)
