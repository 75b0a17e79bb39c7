"""The system calls that a statement through the proxy consists of: two looks, two readings, two sendings; and the one
by which a client comes in.

`socket_calls.c` is the same module for where there is a C compiler (`compiled.py`), and what it says of each function
is what stands here. Python's own methods of a socket do more than the call: they let other threads run, which a call
that does not wait has no need of, make an exception of "nothing now", and a buffer for what may come. With caches that
three processes share, as they are between two statements of one client, that is a third of the proxy's own time.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Final

RECEIVE_BYTES: Final = 32 * 1024
"""Read at once."""

EVENTS_MAX: Final = 42
"""Told of in one look: room for these, of 12 bytes each, comes from Python's own allocator."""


def receive(fd: int) -> bytes | None:
    """What has come, at most `RECEIVE_BYTES`; b"" at the end of the stream, None if there is nothing now. The
    descriptor must not block. Raises `OSError`.
    """
    try:
        return os.read(fd, RECEIVE_BYTES)
    except BlockingIOError:
        return None


def transmit(fd: int, data: bytes | bytearray) -> int:
    """Sends it; how many bytes the peer's side has taken, 0 if it takes none now. The descriptor must not block. Raises
    `OSError`.
    """
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0


def looks_at(epoll: select.epoll) -> Callable[[bool], tuple[int, ...]]:
    """A function that tells which descriptors are ready, each followed by its events (epoll_ctl(2)): with True as soon
    as one is, with False now. Then, or if a signal comes, there may be none. It raises `OSError`, and is for as long as
    the epoll is open.
    """

    def look(forever: bool) -> tuple[int, ...]:
        return tuple([word for pair in epoll.poll(-1 if forever else 0, EVENTS_MAX) for word in pair])

    return look


def takes_from(listening: socket.socket) -> Callable[[], tuple[int, str] | None]:
    """A function that accepts a connection of an address family of IP: a descriptor that does not block, which is the
    caller's, and the peer's address; None if nobody waits now. It raises `OSError`, and is for as long as the socket is
    open, which must not block. No object of a socket is made: that costs as much as the rest of a greeting.
    """

    def take() -> tuple[int, str] | None:
        try:
            fd, peer = listening._accept()  # type: ignore[attr-defined]  # not in typeshed
        except (BlockingIOError, ConnectionAbortedError):
            return None
        os.set_blocking(fd, False)
        return fd, str(peer[0]).partition("%")[0]

    return take
