"""The system calls that a statement through the proxy consists of: two looks, two readings, two sendings.

`socket_calls.c` is the same module for where there is a C compiler (`compiled.py`), and what it says of each function
is what stands here. Python's own methods of a socket do more than the call: they let other threads run, which a call
that does not wait has no need of, make an exception of "nothing now", and a buffer for what may come. With caches that
three processes share, as they are between two statements of one client, that is a third of the proxy's own time.
"""

from __future__ import annotations

import os
import select
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


def transmit(fd: int, data: bytes) -> int:
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
