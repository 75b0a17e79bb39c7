"""The wire of a connection to the database: its login, what is sent, and how fast either side takes what comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mainstay.protocol.postgres.effects import misleads
from mainstay.proxy.engine_login import EngineLogin
from mainstay.proxy.streams import Stream
from mainstay.proxy.transport import NOWHERE, DirectReceiver, Transport

if TYPE_CHECKING:
    from mainstay.proxy.session import ClientSession

LOGIN_TIMEOUT_S = 10.0


class ServerLink(DirectReceiver):
    """What `ServerConnection` is connected by. `owner` is the client session whose turn it is."""

    def __init__(self) -> None:
        self.transport: Transport = NOWHERE
        self._stream: Stream | None = None
        self.owner: ClientSession | None = None
        self.parameters: dict[str, str] = {}
        self.misleads = False
        """Whether, by its parameters, it reads a text otherwise than we do."""

        self.process_id = 0
        self.secret = b""
        self._login: EngineLogin | None = None

    def connection_made(self, transport: Transport) -> None:
        """Before anything else."""
        self.transport = transport
        self._stream = transport if isinstance(transport, Stream) else None

    async def log_in(self, user: str, password: str, database: str) -> None:
        """Raises `LoginFailed`, `OSError` or `TimeoutError`."""
        login = self._login = EngineLogin(self.transport, user, password)
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                await login.run(database)
        finally:
            self._login = None
        self.parameters, self.process_id, self.secret = login.parameters, login.process_id, login.secret
        self.misleads = misleads(self.parameters)

    def write(self, data: bytes) -> None:
        """To the engine."""
        stream = self._stream
        if stream is not None:
            stream.write(data)
        else:
            self.transport.write(data)

    def pause_reading(self) -> None:
        """The client does not take what comes as fast as it comes."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """It does again."""
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """See `transport.Receiver`."""
        if self.owner is not None:
            self.owner.pause_reading()

    def resume_writing(self) -> None:
        """See `transport.Receiver`."""
        if self.owner is not None:
            self.owner.resume_reading()
