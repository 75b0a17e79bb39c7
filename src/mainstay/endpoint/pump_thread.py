"""The pump that every endpoint process has: a thread of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, TypeVar

import structlog

from mainstay.endpoint.carrier import Carrier, Tag, busy_s_of
from mainstay.endpoint.pump import Pump

T = TypeVar("T")
log = structlog.get_logger()


class Released(NamedTuple):
    """A pair that another carrier shall have."""

    pair: int
    tag: Tag
    client: socket.socket
    engine: socket.socket


class PumpThread(Carrier):
    """A pump in a thread, and the orders that it has not seen yet."""

    def __init__(self, on_closed: Callable[[Tag], None]) -> None:
        super().__init__(on_closed)
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._orders: deque[Callable[[], None]] = deque()
        self._pump = Pump(self._wakeup, self._obey, self._closed, self._defect)
        self._runner = threading.Thread(target=self._pump.run, name="pump", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._runner.start()

    async def stop(self) -> None:
        """See `Carrier`."""
        self._order(self._pump.end)
        await asyncio.to_thread(self._runner.join)
        os.close(self._wakeup)
        self._gone([*self.tags])

    def add(self, client: socket.socket, engine: socket.socket, pair: int, tag: Tag) -> None:
        """See `Carrier`."""
        self.tags[pair] = tag
        self._order(lambda: self._pump.add(client, engine, pair))

    async def _cut(self, pairs: list[int]) -> int:
        cut = await self._ask(lambda: self._pump.cut(pairs))
        self._gone(pairs)
        return cut

    async def release(self, count_max: int) -> list[Released]:
        """See `Pump.release`; the pairs belong to the caller now."""
        released = await self._ask(lambda: self._pump.release(count_max))
        return [Released(pair, self.tags.pop(pair), client, engine) for pair, client, engine in released]

    def busy_s(self) -> float:
        """See `Carrier`."""
        return busy_s_of(f"self/task/{self._runner.native_id}")

    async def _ask(self, question: Callable[[], T]) -> T:
        """What the thread answers; asked in order with all other orders, and even if nobody waits for it any more."""
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(question())
            except Exception as error:
                future.set_exception(error)

        self._order(answer)
        return await asyncio.shield(asyncio.wrap_future(future))

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        os.eventfd_write(self._wakeup, 1)

    # In the thread

    def _obey(self) -> None:
        os.eventfd_read(self._wakeup)
        while self._orders:
            order = self._orders.popleft()
            try:
                order()
            except Exception:  # a defect must not end all connections
                log.exception("endpoint.pump_order_failed")

    def _closed(self, pair: int) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(self._gone, [pair])

    def _defect(self, text: str) -> None:
        log.error("endpoint.pump_failed", exception=text)
