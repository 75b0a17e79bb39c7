"""The parts of the proxy process in memory: sessions, server connections and a pool on transports that remember."""

from __future__ import annotations

import asyncio
from typing import cast

from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.proxy.budget import RESERVED_CONNECTIONS
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.pool import Pool
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.session import ClientSession
from mainstay.proxy.target import Database, Target


class Transport:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = self.aborted = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def peer(self) -> tuple[str, int] | None:
        return None

    def taken(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self.written)
        self.written.clear()
        return data


class Parts:
    """A target whose connections are opened in memory, as many as the budget allows, in no time."""

    def __init__(self, *, budget: int = 1, strict: bool = False) -> None:
        self.time = 0.0
        self.target = Target(Database(), Metrics(), lambda: self.time)
        self.target.database.place = "/nowhere"
        self.target.strict = strict
        self.target.opener.connector = self._connect
        self.target.max_connections = budget + RESERVED_CONNECTIONS
        self.opened: list[ServerConnection] = []
        self.refuse: Exception | None = None
        self._numbers = 0

    def pool(self, user: str = "app", database: str = "postgres") -> Pool:
        return self.target.pool(ProxyUser(username=user, password="secret"), database)

    async def _connect(self, pool: Pool) -> ServerConnection:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        return self.connection(pool)

    def connection(self, pool: Pool) -> ServerConnection:
        """A server connection, logged in."""
        made = ServerConnection(pool)
        made.connection_made(Transport())
        made.process_id = len(self.opened) + 1
        self.opened.append(made)
        return made

    def session(self, pool: Pool | None = None, **settings: bytes) -> ClientSession:
        """A client that is let in."""
        self._numbers += 1
        transport = Transport()
        return ClientSession(pool or self.pool(), transport, settings, self._numbers, b"secr", "prx-1")


def client_got(session: ClientSession) -> bytes:
    """What a session's client was sent since the last time."""
    return cast(Transport, session.transport).taken()


def server_got(connection: ServerConnection) -> bytes:
    """The same of a server connection's engine."""
    return cast(Transport, connection.transport).taken()


def kinds(data: bytes) -> str:
    """Types of the messages in a word."""
    return "".join(chr(kind) for kind, _body in wire.split(data))


ANSWER = wire.message(b"T", b"\0\0") + wire.message(b"C", b"SELECT 0\0") + wire.ready_for_query(b"I")
"""To a simple query without rows."""


async def turn() -> None:
    """Lets everything happen that waits for a turn of the loop."""
    for _ in range(6):
        await asyncio.sleep(0)
