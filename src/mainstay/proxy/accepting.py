"""Listening sockets of the proxy's endpoints."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

import structlog

from mainstay.host.socket_calls import takes_from
from mainstay.proxy.streams import Poller, Watched

ACCEPT_RETRY_S = 1.0
DEFERRED_S = 0.002
"""So long a worker with more clients than the others leaves a connection to them."""

DEFERRED_MAX: Final = 16
_IN: Final = select.EPOLLIN

log = structlog.get_logger()


class Acceptor(Watched):
    """A listening socket. `arrived` is called with each connection's descriptor, to keep, and its address.

    Workers share one socket, and all of them are woken for a connection. Which gets it is chance, and the kernel likes
    those best that have just run; so one that is `crowded` lets the others go first, for a moment.
    """

    def __init__(
        self,
        poller: Poller,
        listening: socket.socket,
        arrived: Callable[[int, str], object],
        crowded: Callable[[], bool] | None = None,
    ) -> None:
        self._poller = poller
        self._socket = listening
        self._arrived = arrived
        self._crowded = crowded
        self._fd = listening.fileno()
        self._accept: Callable[[], tuple[int, str] | None] = takes_from(listening)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections have that from it
        poller.register(self._fd, self, _IN)

    def ready(self, events: int) -> None:
        """See `Watched`."""
        if self._crowded is not None and self._crowded():
            self._poller.unregister(self._fd)
            self._poller.loop.call_later(DEFERRED_S, self._take_deferred)
        else:
            self._take()

    def _take(self) -> bool:
        """Takes one; whether there may be more."""
        try:  # one in a turn: of more the poller tells again
            taken = self._accept()
        except OSError as error:  # out of descriptors or memory: the others must go on meanwhile
            log.error("proxy.accept_failed", error=str(error))
            self._poller.unregister(self._fd)
            self._poller.loop.call_later(ACCEPT_RETRY_S, self._again)
            return False
        if taken is None:
            return False
        self._arrived(taken[0], taken[1])
        return True

    def _take_deferred(self) -> None:
        if self._socket.fileno() >= 0:
            self._poller.register(self._fd, self, _IN)
            for _ in range(DEFERRED_MAX):  # nobody else has taken them: in a crush all are crowded
                if not self._take():
                    break

    def _again(self) -> None:
        if self._socket.fileno() >= 0:
            self._poller.register(self._fd, self, _IN)

    def close(self) -> None:
        """Takes no one in any more."""
        self._poller.unregister(self._fd)
        self._socket.close()
