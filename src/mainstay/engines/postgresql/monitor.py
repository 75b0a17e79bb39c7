"""Watching a PostgreSQL primary and the standby that follows it, through one session kept open."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg

from mainstay.engines.base import Vitals
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.sessions import CANNOT_CONNECT_NOW, Session, connect
from mainstay.model.node import NodeSpec

LOOK_TIMEOUT_S = 1.5
LOOKS_PER_SESSION = 20
"""After so many a new session shows that the engine takes new ones."""

STORAGE_FAULTS = frozenset({"58030", "58P01", "XX001", "XX002", "25006"})
"""I/O error, missing file, damaged page or index; and read-only, which a primary can only be by mistake."""

NOT_YET = ("starting up", "not accepting connections", "not yet accepting", "No such file")
LOOK = """SELECT coalesce(r.state = 'streaming', false), coalesce(r.sync_state = 'sync', false),
 coalesce(r.reply_time::text, ''), coalesce(pg_wal_lsn_diff(
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END, r.flush_lsn),
  0)::bigint
 FROM (SELECT) AS once LEFT JOIN pg_stat_replication AS r ON r.application_name = %s
 ORDER BY 1 DESC LIMIT 1"""
WRITE = "SELECT pg_logical_emit_message(true, 'mainstay', '')"
"""A transaction of its own that must reach the disk, and changes nothing."""


class PostgresqlMonitor:
    """`Monitor` for PostgreSQL."""

    def __init__(self, spec: NodeSpec, files: NodeFiles) -> None:
        self._sockets, self._port = files.sockets, spec.port
        self._session: Session | None = None
        self._looks = 0
        self._left_behind: set[asyncio.Task[Vitals]] = set()

    async def look(self, follower: str, *, write: bool) -> Vitals:
        """See `Monitor`."""
        # Not `asyncio.timeout`: a cancelled query of psycopg first tries to cancel it in the engine, for seconds, and
        # an engine that is frozen answers nothing. The look is left behind instead, and its session cut.
        looking = asyncio.create_task(self._look(follower, write))
        await asyncio.wait({looking}, timeout=LOOK_TIMEOUT_S)
        if not looking.done():
            self._abandon(looking)
            return Vitals(answered=False, message=f"no answer within {LOOK_TIMEOUT_S} s")
        try:
            return looking.result()
        except psycopg.Error as error:
            await self.close()
            return _judged(error)

    async def close(self) -> None:
        """See `Monitor`."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):  # whatever it says: it is not used any more
                await session.close()

    def _abandon(self, looking: asyncio.Task[Vitals]) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.pgconn.finish()
        self._left_behind.add(looking)
        looking.add_done_callback(self._forget)
        looking.cancel()

    def _forget(self, looking: asyncio.Task[Vitals]) -> None:
        self._left_behind.discard(looking)
        if not looking.cancelled():
            looking.exception()

    async def _look(self, follower: str, write: bool) -> Vitals:
        if self._looks >= LOOKS_PER_SESSION:
            await self.close()
        if self._session is None:
            self._session, self._looks = await connect(self._sockets, self._port), 0
        self._looks += 1
        if write:
            await self._session.execute(WRITE)
        row = await (await self._session.execute(LOOK, (follower,))).fetchone()
        if row is None:
            return Vitals(answered=True)
        streaming, synchronous, heard, behind_bytes = row
        return Vitals(
            answered=True, streaming=streaming, synchronous=synchronous, heard=heard, behind_bytes=behind_bytes
        )


def _judged(error: psycopg.Error) -> Vitals:
    message = str(error).strip()
    if error.sqlstate in STORAGE_FAULTS:
        return Vitals(answered=True, storage_fault=True, message=message)
    starting = error.sqlstate == CANNOT_CONNECT_NOW or any(words in message for words in NOT_YET)
    answered = starting or error.sqlstate is not None or "too many clients" in message
    return Vitals(answered=answered, starting=starting, message=message)
