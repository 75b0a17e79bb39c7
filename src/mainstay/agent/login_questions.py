"""Where engines ask about IAM logins that cannot ask control themselves: a Unix socket of each node.

An engine sends how the client is connected ("T": over TLS, "C": in the clear), the user's name and the token, each of
these two ended by a NUL, and is answered with one byte. Guarantees: "Y" only if control said so; whatever else
happens is "N", or no answer; nothing of a token is logged or kept. Only the engine's user can enter the directory.
Limits: `CONNECTIONS_MAX` at once on this host, `QUESTION_BYTES_MAX`, `TIMEOUT_S` from connection to answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog

from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.errors import MainstayError

TIMEOUT_S = 4.5
"""A little less than the engine waits: what is refused for this reason is refused with a reason."""

QUESTION_BYTES_MAX = 65 * 1024
"""The longest token that control takes, and a name."""

CHUNK_BYTES = 16 * 1024
CONNECTIONS_MAX = 256
OVER_TLS, IN_THE_CLEAR = b"T", b"C"
ALLOWED, REFUSED = b"Y", b"N"

Ask = Callable[[dict[str, Any]], Awaitable[bool]]
"""Asks control: `InstanceQuestion` -> whether the login is allowed. May raise `MainstayError`."""

log = structlog.get_logger()


class Logins(Protocol):
    """What a keeper asks for."""

    def tend(self, node_id: str, resource_id: str, files: NodeFiles | None) -> None:
        """The node's engine is answered from now on, or (None) not any more. May be repeated."""


class NoLogins:
    """`Logins` where no engine asks."""

    def tend(self, node_id: str, resource_id: str, files: NodeFiles | None) -> None:
        """Nothing."""


class LoginQuestions:
    """The sockets of this host's nodes."""

    def __init__(self, ask: Ask, user: User) -> None:
        self._ask = ask
        self._user = user
        self._listening: dict[str, tuple[socket.socket, asyncio.Task[None]]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def tend(self, node_id: str, resource_id: str, files: NodeFiles | None) -> None:
        """See `Logins`. A socket that cannot be made is logged, and tried again the next time."""
        if files is None:
            self._end(node_id)
        elif node_id not in self._listening:
            try:
                listener = self._bound(files.login_socket)
            except OSError as error:
                log.error("login_questions.not_listening", node_id=node_id, error=str(error))
                return
            accepting = asyncio.get_running_loop().create_task(self._accept(listener, resource_id))
            self._listening[node_id] = (listener, accepting)

    async def stop(self) -> None:
        """Ends every socket and connection."""
        for node_id in list(self._listening):
            self._end(node_id)
        tasks = [*self._answering]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, node_id: str) -> None:
        listener, accepting = self._listening.pop(node_id, (None, None))
        if listener is not None and accepting is not None:
            accepting.cancel()
            listener.close()

    def _bound(self, path: Path) -> socket.socket:
        """A socket at `path` that the engine's user may connect to, in the place of a predecessor's."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            path.chmod(0o600)
            self._user.give(path)
            listener.listen(CONNECTIONS_MAX)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener

    async def _accept(self, listener: socket.socket, resource_id: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors left, most likely
                log.error("login_questions.not_accepted", error=str(error))
                await asyncio.sleep(1.0)
                continue
            if len(self._answering) >= CONNECTIONS_MAX:
                connection.close()
                continue
            task = loop.create_task(self._answer(connection, resource_id))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, connection: socket.socket, resource_id: str) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                question = await self._question(connection, resource_id)
                allowed = question is not None and await self._ask(question)
                await loop.sock_sendall(connection, ALLOWED if allowed else REFUSED)
        except (OSError, MainstayError) as error:  # TimeoutError is an OSError
            log.warning("login_questions.not_answered", resource_id=resource_id, error=type(error).__name__)
            with suppress(OSError):
                connection.send(REFUSED)
        finally:
            connection.close()

    @staticmethod
    async def _question(connection: socket.socket, resource_id: str) -> dict[str, Any] | None:
        """What control is to be asked; None for what is no question."""
        received = b""
        while received.count(b"\0") < 2:
            more = await asyncio.get_running_loop().sock_recv(connection, CHUNK_BYTES)
            received += more
            if not more or len(received) > QUESTION_BYTES_MAX:
                return None
        how, (user, token, *_) = received[:1], received[1:].split(b"\0")
        if how not in (OVER_TLS, IN_THE_CLEAR):
            return None
        # What is not text matches no user and is no token; control says so, with a reason.
        return {
            "resource_id": resource_id,
            "username": user.decode(errors="replace"),
            "token": token.decode("ascii", errors="replace"),
            "over_tls": how == OVER_TLS,
        }
