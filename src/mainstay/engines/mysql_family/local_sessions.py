"""Our own sessions in an engine of this family: over the node's own Unix socket, as the system user that we run as."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mainstay.engines.mysql_family.sessions import (
    SHUT_OUT,
    STATEMENT_TIMEOUT_S,
    Error,
    Session,
    message_of,
    number_of,
    open_at_socket,
    passing,
    silent,
    transient,
)
from mainstay.engines.node_files import NodeFiles
from mainstay.host.users import names_of
from mainstay.model.errors import Answered, Refused, Transient

SOCKET = "mysqld.sock"
UNHINDERED = (
    "autocommit = 1, wait_timeout = 28800, sql_select_limit = 18446744073709551615, sql_big_selects = 1"
    " /*!80000 , max_execution_time = 0, transaction_read_only = 0, transaction_isolation = 'REPEATABLE-READ' */"
    " /*M! , tx_isolation = 'REPEATABLE-READ', max_statement_time = 0, max_session_mem_used = 9223372036854775807 */"
)
"""What users set for their own sessions by a parameter group does not hold for ours, nor for what the engine runs at
its start, which would end in the middle. MariaDB passes over the first of the comments, MySQL over the second."""


async def run_all(connection: Session, statements: Sequence[str]) -> None:
    """One after the other. Raises `Error`."""
    for statement in statements:
        await connection.execute(statement)


async def binary_logs(session: Session) -> list[tuple[str, int]]:
    """Names and lengths of the binary logs, the one being written last. Raises `Error`, `Transient`."""
    rows = await session.execute("SHOW BINARY LOGS")
    if not rows:
        raise Transient("the engine has no binary log")
    return [(str(name), int(length)) for name, length, *_ in rows]


def own_name() -> str:
    """The account that we log in to."""
    return pwd.getpwuid(os.geteuid()).pw_name


def operators(files: NodeFiles) -> tuple[str, ...]:
    """The system users that may operate the node: the one that we run as, and the engine's own."""
    return names_of((os.geteuid(), files.volume.stat().st_uid))


async def connect(sockets: Path, *, timeout_s: float = STATEMENT_TIMEOUT_S, replicated: bool = False) -> Session:
    """A session that the caller closes. Raises `Error`.

    What it does stays on this node unless it is to be `replicated`: one FLUSH in the log of a follower, and it could
    not follow any more.
    """
    first = f"SET SESSION sql_log_bin = {int(replicated)}, {UNHINDERED}"
    return await open_at_socket(sockets / SOCKET, own_name(), timeout_s=timeout_s, first=first)


@asynccontextmanager
async def session(
    sockets: Path, *, timeout_s: float = STATEMENT_TIMEOUT_S, replicated: bool = False
) -> AsyncIterator[Session]:
    """A session for one purpose; see `connect`. Raises `Error`."""
    opened = await connect(sockets, timeout_s=timeout_s, replicated=replicated)
    try:
        yield opened
    except BaseException:
        opened.cut()
        raise
    await opened.close()


@asynccontextmanager
async def answering(
    sockets: Path, *, timeout_s: float = STATEMENT_TIMEOUT_S, replicated: bool = False
) -> AsyncIterator[Session]:
    """As `session`; an engine that does not answer, lets us in no more, or ends meanwhile, is `Transient`."""
    try:
        async with session(sockets, timeout_s=timeout_s, replicated=replicated) as opened:
            yield opened
    except Error as error:
        if silent(error) or number_of(error) in SHUT_OUT:
            raise transient(error) from error
        raise


@asynccontextmanager
async def asking(
    sockets: Path, *, timeout_s: float = STATEMENT_TIMEOUT_S, replicated: bool = False
) -> AsyncIterator[Session]:
    """As `answering`, for a caller who knows no error of the engine's: each that is left is `Answered`."""
    try:
        async with answering(sockets, timeout_s=timeout_s, replicated=replicated) as opened:
            yield opened
    except Error as error:
        raise Answered(f"the engine answers with an error: {message_of(error)}") from error


@asynccontextmanager
async def operating(files: NodeFiles, *, replicated: bool = False) -> AsyncIterator[Session]:
    """As `answering`, for what every engine takes that can be operated: an error that it answers is `Refused`."""
    try:
        async with answering(files.sockets, replicated=replicated) as opened:
            yield opened
    except Error as error:
        if passing(error):
            raise transient(error) from error
        raise Refused(f"the engine answers with an error: {message_of(error)}") from error
