"""Sessions in an engine that speaks the MySQL protocol, over its Unix socket or over verified TLS.

PyMySQL blocks, so every session has a thread of its own: an engine that is frozen holds up nobody else. What is
cancelled here goes on there until its timeout, or until the session is cut; a session that was cut raises.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pymysql
from pymysql.constants import CR, ER
from pymysql.cursors import DictCursor

from mainstay.model.errors import Transient

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30
SQL_MODE = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"
"""What our quoting is made for, whatever the parameter group says."""

Row = tuple[Any, ...]
Result = TypeVar("Result")
Error = pymysql.err.MySQLError

NO_ANSWER = frozenset(
    {CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, ER.SERVER_SHUTDOWN}
)

REFUSED = frozenset({ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, 1698, 1862, 3118, 3955, 4151})
"""Access denied (1698: without a word about the password), expired passwords, locked accounts (error codes of both)."""

SHUT_OUT = REFUSED | {ER.SPECIFIC_ACCESS_DENIED_ERROR}
"""Said to a session of our own: our account is gone, or cannot do any more what it must. The next start mends it."""


PASSING = frozenset(
    {
        ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.QUERY_INTERRUPTED,
        ER.DISK_FULL, ER.ERROR_ON_WRITE, ER.RECORD_FILE_FULL, 1969, 3024,
    }
)  # fmt: skip
"""What the engine says of the moment and not of itself: no room, no connection left, a lock in the way (1969, 3024: no
time left, in the numbers of each)."""


class Session:
    """One connection. Every statement commits by itself unless it says otherwise."""

    def __init__(
        self, connection: pymysql.Connection[Any], executor: ThreadPoolExecutor, peer: socket.socket | None
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._peer = peer

    async def execute(self, statement: str, arguments: Sequence[object] = ()) -> list[Row]:
        """The rows of the statement's first result. Raises `Error`.

        `%s` in the statement stands for an argument, `%%` for a per cent sign, only if there are arguments.
        """
        return await self._in_thread(lambda: self._execute(statement, arguments))

    async def records(self, statement: str) -> list[dict[str, Any]]:
        """The rows of a statement's only result, each by the names of its columns. Raises `Error`."""
        return await self._in_thread(lambda: self._records(statement))

    async def value(self, statement: str, arguments: Sequence[object] = ()) -> Any:
        """The first column of the first row, None without one."""
        rows = await self.execute(statement, arguments)
        return rows[0][0] if rows else None

    async def close(self) -> None:
        """Ends the session, politely if nothing is under way in it. Never raises."""
        with suppress(Exception):  # whatever it says: it is not used any more
            await self._in_thread(self._connection.close)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def cut(self) -> None:
        """Ends the session at once, whatever the engine does; a statement that waits for it raises. Never blocks.

        For sessions over a Unix socket. The thread of another one ends when its statement's time is up.
        """
        if self._peer is not None:
            with suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _execute(self, statement: str, arguments: Sequence[object]) -> list[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, tuple(arguments) if arguments else None)
            return list(cursor.fetchall())

    def _records(self, statement: str) -> list[dict[str, Any]]:
        with self._connection.cursor(DictCursor) as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


async def open_at_socket(socket_path: Path, user: str, *, timeout_s: float, first: str) -> Session:
    """A session over a Unix socket, without a password, whose first statement is `first`. Raises `Error`."""

    def connected() -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.settimeout(min(timeout_s, CONNECT_TIMEOUT_S))
            peer.connect(str(socket_path))
        except OSError as error:
            peer.close()
            raise pymysql.err.OperationalError(CR.CR_CONNECTION_ERROR, str(error)) from error
        return peer

    return await _open(timeout_s, connected, user=user, ssl_disabled=True, init_command=first)


async def open_over_tls(
    *, address: str, server_name: str, port: int, authorities: Path, user: str, password: str
) -> Session:
    """A session over TLS, the server's name verified. Raises `Error`."""
    context = _Verifying(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(authorities))
    context.server_name = server_name
    return await _open(STATEMENT_TIMEOUT_S, None, host=address, port=port, user=user, password=password, ssl=context)


def message_of(error: Error) -> str:
    """The engine's words, or the client's about a connection that failed."""
    return str(error.args[1] if len(error.args) > 1 else error)


def number_of(error: Error) -> int:
    """The error's number, 0 if it has none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def silent(error: Error) -> bool:
    """Whether the engine does not answer, as opposed to having answered with an error."""
    return number_of(error) in NO_ANSWER or isinstance(error, pymysql.err.InterfaceError)


def passing(error: Error) -> bool:
    """Whether it says nothing of how the engine is: it does not answer at all, or something is in the way now."""
    return silent(error) or number_of(error) in PASSING | SHUT_OUT


def transient(error: Error) -> Transient:
    """An engine that does not answer."""
    return Transient(f"the engine does not answer: {message_of(error)}")


class _Verifying(ssl.SSLContext):
    """Asks for the certificate of a name other than the address dialled, which is the one that PyMySQL would pass."""

    server_name = ""

    def wrap_socket(self, sock: socket.socket, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, *arguments, **{**options, "server_hostname": self.server_name})


async def _open(timeout_s: float, connected: Callable[[], socket.socket] | None, **options: Any) -> Session:
    # One thread: statements of a session follow one another, and it is gone when the session is.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine-session")

    def connect() -> Session:
        connection = pymysql.connect(
            **options,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=timeout_s,
            write_timeout=timeout_s,
            sql_mode=SQL_MODE,
            program_name="mainstay",
            defer_connect=True,
        )
        peer = None if connected is None else connected()
        connection.connect(peer)
        return Session(connection, executor, peer)

    try:
        return await asyncio.get_running_loop().run_in_executor(executor, connect)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
