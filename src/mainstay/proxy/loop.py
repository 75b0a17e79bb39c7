"""asyncio's event loop around the proxy's own poller: timers and calls run in one, logins and statements in the other.

The loop asks its selector what is ready, and this selector first serves the proxy's streams, as long as asyncio has
nothing to do. asyncio's own sockets are in an epoll inside the proxy's.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from mainstay.proxy.streams import Poller, Stream
from mainstay.proxy.transport import Receiver

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")
_Ready = list[tuple[selectors.SelectorKey, int]]


class _Selector(selectors.EpollSelector):
    """asyncio's descriptors; `poller` is set before it is first asked."""

    poller: Poller

    def select(self, timeout: float | None = None) -> _Ready:
        """As `BaseSelector.select`."""
        return super().select(0) if self.poller.run(timeout) else []


class ProxyLoop(asyncio.SelectorEventLoop):
    """An event loop with a poller."""

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        self.poller = selector.poller = Poller(self)
        self.poller.watch_aside(selector.fileno())

    def call_soon(
        self, callback: Callable[[Unpack[_Args]], object], *args: *_Args, context: Context | None = None
    ) -> asyncio.Handle:
        """As `AbstractEventLoop.call_soon`."""
        self.poller.interrupted = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Args]], object],
        *args: *_Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As `AbstractEventLoop.call_at`."""
        self.poller.interrupted = True  # it may be due before what the poller waits for
        return super().call_at(when, callback, *args, context=context)

    def close(self) -> None:
        """As `AbstractEventLoop.close`."""
        super().close()
        self.poller.close()


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """As `asyncio.run`, in a `ProxyLoop`."""
    with asyncio.Runner(loop_factory=ProxyLoop) as runner:
        return runner.run(main)


def running_poller() -> Poller:
    """The poller of the loop that runs. Raises `RuntimeError` in another kind of loop."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, ProxyLoop):
        raise RuntimeError("the proxy's sockets need a ProxyLoop: use mainstay.proxy.loop.run")
    return loop.poller


async def connect(place: str | tuple[str, int], protocol: Receiver) -> Stream:
    """A stream to a Unix socket's path or (host, port). Raises `OSError`."""
    loop, poller = asyncio.get_running_loop(), running_poller()
    if isinstance(place, str):
        return await _connected(poller, socket.AF_UNIX, place, protocol)
    found = await loop.getaddrinfo(*place, type=socket.SOCK_STREAM)
    family, _type, _protocol, _name, address = found[0]
    return await _connected(poller, family, address, protocol)


async def _connected(poller: Poller, family: socket.AddressFamily, address: Any, protocol: Receiver) -> Stream:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        if family == socket.AF_UNIX:
            connection.connect(address)  # at once, or the queue of the engine is full and it fails
        else:
            await asyncio.get_running_loop().sock_connect(connection, address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Stream(poller, connection.detach(), protocol)
    except BaseException:
        connection.close()
        raise
