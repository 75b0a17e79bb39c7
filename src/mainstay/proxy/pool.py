"""Connections of one user in one database, as sessions and connections see them; `target.py` decides who gets one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres import kinds, wire
from mainstay.protocol.postgres.effects import Effect
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.idle import IdleConnections
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.welcome import Welcome

if TYPE_CHECKING:
    from mainstay.proxy.session import ClientSession
    from mainstay.proxy.target import Target

CLEAN = b"DISCARD ALL"
CANCEL_TIMEOUT_S = 5.0
_RETRIABLE = frozenset({"53300", "57P03", "08006", "08001", "57P01"})
_NOT_TAKEN = "28P01"
ROTATION_S = 15.0
"""So long the new password of a user may take to come here when the engine has it already (Secrets Manager user guide,
"How rotation works": it is set in the database, tested, and only then the secret's current value)."""

log = structlog.get_logger()


class Pool:
    """Connections of one user in one database."""

    def __init__(self, target: Target, user: ProxyUser, database: str) -> None:
        self.target = target
        self.user = user
        self.database = database
        self.idle = IdleConnections()
        self.opening = 0
        self._taken = ""
        """The password that the engine has last taken."""

        self._doubted_at: float | None = None
        """Since when it takes that no longer."""

        self.welcome = Welcome()
        self.now = target.now
        self.statements = target.statements

    @property
    def strict(self) -> bool:
        """Pin on everything that AWS pins on."""
        return self.target.strict

    def logged_in(self, password: str) -> None:
        """The engine has taken this one."""
        self._taken, self._doubted_at = password, None

    def hopeless(self, error: LoginFailed, password: str) -> bool:
        """Whether no retry heals it. Not so a password that was right: it is probably being changed, and the new one is
        on its way here, or has come meanwhile.
        """
        never_right = password == self.user.password and password != self._taken
        if error.sqlstate != _NOT_TAKEN or never_right:
            return error.sqlstate not in _RETRIABLE
        if self._doubted_at is None:
            self._doubted_at = self.now()
        return self.now() - self._doubted_at > ROTATION_S

    def acquire(self, session: ClientSession) -> ServerConnection | None:
        """See `Target.acquire`."""
        return self.target.acquire(session)

    def effects_of(self, sql: bytes) -> tuple[tuple[Effect, ...], ...]:
        """See `Target.effects_of`."""
        return self.target.effects_of(sql)

    def release(self, connection: ServerConnection) -> None:
        """The connection's session does not need it any more; it is clean."""
        target = self.target
        if connection.retired or connection.cancels or target.over:
            target.settled(connection)
        elif target.waiters:
            target.hand_over(connection)
        else:
            connection.idle_since = target.looked_at
            self.idle.add(connection)

    def settled(self, connection: ServerConnection) -> None:
        """See `Target.settled`."""
        self.target.settled(connection)

    def answered(self, connection: ServerConnection, purpose: str, rows: bytes, failed: bool) -> None:
        """See `Target.answered`."""
        self.target.answered(connection, purpose, rows, failed)

    def forget(self, connection: ServerConnection) -> None:
        """See `Target.forget`."""
        self.target.forget(connection)

    def disconnected(self, connection: ServerConnection) -> None:
        """Its socket is closed."""
        if self.target.lender is not None:
            self.target.lender.disconnected(connection)

    def abandoned(self, connection: ServerConnection, *, dirty: bool, started: bool) -> None:
        """Its session has gone: what it left is cleaned away, or goes with the connection if it is at work."""
        if connection.closed:
            return
        if connection.expected or started:
            # The engine would go on with it, and not see before its end that nobody is there any more.
            connection.cancels += 1  # from now on nobody else gets it
            task = asyncio.get_running_loop().create_task(self._end(connection))
            self.target.tasks.add(task)
            task.add_done_callback(self.target.tasks.discard)
            return
        if connection.status != kinds.IDLE:
            connection.ask(b"ROLLBACK", "rollback")
        if dirty:
            connection.ask(CLEAN, "clean")
        if not connection.expected:
            self.settled(connection)

    async def _end(self, connection: ServerConnection) -> None:
        try:
            await self.cancel(connection)
        finally:
            connection.close()

    async def cancel(self, connection: ServerConnection) -> None:
        """Cancels what the connection is doing. It cannot change hands before the engine has taken the request."""
        place = self.target.database.place
        if place is None or connection.closed:
            return
        connection.cancels += 1
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                if isinstance(place, str):
                    reader, writer = await asyncio.open_unix_connection(place)
                else:
                    reader, writer = await asyncio.open_connection(*place)
                with suppress(OSError):
                    writer.write(wire.cancel_request(connection.process_id, connection.secret))
                    await reader.read()
                writer.close()
        except (OSError, TimeoutError) as error:
            log.warning("proxy.cancel_failed", connection=connection.process_id, error=str(error))
        finally:
            connection.cancels -= 1

    def left(self, session: ClientSession) -> None:
        """The client is gone."""
        if session.waiting:
            self.forget_waiter(session)
        self.target.left(session)

    def forget_waiter(self, session: ClientSession) -> None:
        """The session does not want a connection any more."""
        self.target.forget_waiter(session)

    def pinned(self, session: ClientSession, reason: str) -> None:
        """A session stays on its connection from now on."""
        self.target.metrics.pinned(reason)
        connection = 0 if session.server is None else session.server.process_id
        log.warning(
            "The client session was pinned to the database connection"
            f" [dbConnection={connection}] for the remainder of the session. The proxy can't reuse this connection"
            f" until the session ends. Reason: {reason}",
            proxyEndpoint=session.endpoint,
            clientConnection=session.number,
        )

    def unpinned(self, session: ClientSession) -> None:
        """Nothing is left of what pinned the session."""
        log.info("proxy.unpinned", proxyEndpoint=session.endpoint, clientConnection=session.number)
