"""Cancel keys: which session a cancel request means, and never another one."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from mainstay.protocol.postgres.packets import CancelRequest
from mainstay.proxy.drawn import random_bytes
from mainstay.proxy.session import ClientSession

CANCELS_MAX = 4
"""Of one session at the same time; more of them change nothing."""

_NUMBERS: Final = 1 << 27
"""Sessions of one worker at a time; with the worker's number they fit into 31 bits."""

Elsewhere = Callable[[int, CancelRequest], Awaitable[None]]
"""Hands a request to the worker of this number."""


class Keys:
    """Cancel keys of every session of this process (55.2.8).

    The number in a key names the worker too (0: there is only one process), so that a request that arrives at another
    worker is handed on, by `elsewhere`, and is looked at where the session is.
    """

    def __init__(self, worker: int = 0, elsewhere: Elsewhere | None = None) -> None:
        self.sessions: dict[int, ClientSession] = {}
        self._worker = worker
        self._elsewhere = elsewhere
        self._last = secrets.randbelow(_NUMBERS)

    def new(self, secret_bytes: int) -> tuple[int, bytes]:
        """A number that nobody else has, and a secret."""
        while True:
            self._last = (self._last + 1) % _NUMBERS
            number = self._worker * _NUMBERS + self._last
            if number and number not in self.sessions:
                return number, random_bytes(secret_bytes)

    async def cancel(self, request: CancelRequest) -> None:
        """Cancels what the session with this key is doing now, and never what another one does.

        The connection cannot change hands before the engine has closed the connection that carried the request.
        """
        worker = request.process_id // _NUMBERS
        if worker != self._worker:
            if self._elsewhere is not None:
                await self._elsewhere(worker, request)
            return
        session = self.sessions.get(request.process_id)
        if session is None or not secrets.compare_digest(session.secret, request.secret):
            return
        if session.waiting:
            session.pool.forget_waiter(session)
            session.refused("57014", "canceling statement due to user request")
            return
        server = session.server
        if server is None or not server.expected or server.closed or server.cancels >= CANCELS_MAX:
            return
        await server.pool.cancel(server)
        if server.owner is not None:
            server.owner.maybe_release()
        else:
            server.pool.settled(server)
