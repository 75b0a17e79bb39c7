"""Our own sessions in an engine: as rdsadmin, over the node's own Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow

from mainstay.engines.postgresql.configuration import ADMIN_ROLE
from mainstay.model.errors import Answered, Refused, Transient

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 30_000
CANNOT_CONNECT_NOW = "57P03"

PASSING = ("starting up", "shutting down", "in recovery mode", "not accepting", "too many", "connection slots")
"""In what PostgreSQL says to a session that it does not take now."""

Session = psycopg.AsyncConnection[TupleRow]


@asynccontextmanager
async def answering(sockets: Path, port: int) -> AsyncIterator[Session]:
    """As `session`; an engine that does not answer, or ends meanwhile, is `Transient`, an error of its `Answered`."""
    try:
        async with session(sockets, port) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Transient(f"the engine does not answer: {str(error).strip()}") from error
    except psycopg.Error as error:
        raise Answered(f"the engine answers with an error: {str(error).strip()}") from error


@asynccontextmanager
async def operating(sockets: Path, port: int) -> AsyncIterator[Session]:
    """As `answering`, for what every engine takes that can be operated: an error that it answers is `Refused`."""
    try:
        async with answering(sockets, port) as connection:
            yield connection
    except Answered as error:
        raise Refused(error.message) from error


def refusal(error: psycopg.Error) -> bool:
    """Whether the engine has answered, and not with what will pass: that it starts or ends, or is full of clients."""
    said = str(error)
    if not isinstance(error, psycopg.OperationalError):
        return True
    return "FATAL:" in said and not any(words in said for words in PASSING)


@asynccontextmanager
async def session(sockets: Path, port: int) -> AsyncIterator[Session]:
    """A session of rdsadmin over the node's own Unix socket (peer authentication), out of reach of the master user.

    Never in a database that the master user owns: its owner could set a search_path there that makes rdsadmin, a
    superuser, call his functions, or could drop it. Until `apply_accounts` made our own we use postgres, which nobody
    else owns before that; a session in template1 would keep CREATE DATABASE waiting.
    Raises `psycopg.OperationalError`.
    """
    connection = await connect(sockets, port)
    try:
        yield connection
    finally:
        await connection.close()


async def connect(sockets: Path, port: int) -> Session:
    """A session that the caller closes; see `session`."""
    try:
        return await _open(sockets, port, ADMIN_ROLE)
    except psycopg.OperationalError as error:
        if f'database "{ADMIN_ROLE}" does not exist' not in str(error):
            raise
        return await _open(sockets, port, "postgres")


async def value(connection: Session, query: str) -> object:
    """The first column of the first row, None without one."""
    row = await (await connection.execute(query.encode())).fetchone()
    return None if row is None else row[0]


async def _open(sockets: Path, port: int, database: str) -> Session:
    # Ours alone is `local`: what we change must not wait for a standby that may be away.
    return await psycopg.AsyncConnection.connect(
        host=str(sockets),
        port=port,
        user=ADMIN_ROLE,
        dbname=database,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="mainstay-agent",
        options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c search_path=pg_catalog,pg_temp"
        " -c synchronous_commit=local",
    )
