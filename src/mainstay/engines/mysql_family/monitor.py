"""Watching a primary and the standby that follows it, through sessions kept open.

Looks write nothing that is replicated, so that they never wait for the standby. What does wait for it is a pulse: a
small transaction in a session of its own. That it was acknowledged is the only word of itself that a standby sends; as
long as no commit waits for it, the pulse is a question to the standby's own socket, which is beside the primary's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from pymysql.constants import ER

from mainstay.engines.base import Vitals
from mainstay.engines.mysql_family.heartbeat import PULSE, WRITE
from mainstay.engines.mysql_family.local_sessions import connect, session
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, number_of, silent
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles

LOOK_TIMEOUT_S = 1.5
LOOKS_PER_SESSION = 20
"""After so many a new session shows that the engine takes new ones."""

LOOKS_PER_PULSE = 4
PULSE_TIMEOUT_S = 600.0
BEHIND_LOOKS_MAX = 10
"""A source that is busy is seen sending most of the time: not once idle in so many looks means that it lags."""

FAR_BEHIND_BYTES = 1 << 40
STORAGE_FAULTS = frozenset(
    {ER.DISK_FULL, ER.ERROR_ON_WRITE, ER.CANT_OPEN_FILE, ER.ERROR_ON_READ, 1034, 1194, 1290, 1836}
)
"""Full, failing or damaged; and read-only, which a primary can only be by mistake."""

NOT_YET = ("No such file", "Connection refused")
LOOK = """SELECT COALESCE(MAX(p.STATE), ''), COUNT(p.ID),
 (SELECT VARIABLE_VALUE FROM {status} WHERE VARIABLE_NAME = '{semi_sync}status'),
 (SELECT VARIABLE_VALUE FROM {status} WHERE VARIABLE_NAME = '{acknowledged}'),
 @@GLOBAL.{semi_sync}enabled
 FROM information_schema.PROCESSLIST AS p WHERE p.USER = %s AND p.COMMAND LIKE 'Binlog Dump%%'"""


class FamilyMonitor:
    """`Monitor` for the engines of this family."""

    def __init__(self, files: NodeFiles, words: Words) -> None:
        self._sockets: Path = files.sockets
        self._words = words
        self._query = LOOK.format(status=words.status_table, semi_sync=words.semi_sync, acknowledged=words.acknowledged)
        self._session: Session | None = None
        self._looks = 0
        self._all_looks = 0
        self._behind_looks = 0
        self._pulse: asyncio.Task[None] | None = None
        self._pulse_session: Session | None = None
        self._answers = 0

    async def look(self, follower: str, *, write: bool) -> Vitals:
        """See `Monitor`."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return await self._look(follower, write)
        except TimeoutError:
            self._cut()
            return Vitals(answered=False, message=f"no answer within {LOOK_TIMEOUT_S} s")
        except Error as error:
            self._cut()
            return _judged(error)

    async def close(self) -> None:
        """See `Monitor`."""
        self._cut()
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            self._cut_pulse()
            pulse.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await pulse

    def _cut(self) -> None:
        ended, self._session = self._session, None
        if ended is not None:
            ended.cut()

    def _cut_pulse(self) -> None:
        ended, self._pulse_session = self._pulse_session, None
        if ended is not None:
            ended.cut()

    async def _look(self, follower: str, write: bool) -> Vitals:
        if self._session is not None and self._looks >= LOOKS_PER_SESSION:
            ended, self._session = self._session, None
            await ended.close()
        if self._session is None:
            self._session, self._looks = await connect(self._sockets, timeout_s=LOOK_TIMEOUT_S), 0
        self._looks += 1
        self._all_looks += 1
        if write:
            await self._session.execute(WRITE)
        [(state, dumps, status, acknowledgements, enabled)] = await self._session.execute(
            self._query, (f"{self._words.follower_user}{follower}",)
        )
        streaming = bool(dumps)
        if streaming and self._all_looks % LOOKS_PER_PULSE == 0:
            self._send_pulse(None if enabled else self._sockets.with_name(follower))
        self._behind_looks = 0 if state.startswith(self._words.sent_all) else self._behind_looks + 1
        return Vitals(
            answered=True,
            streaming=streaming,
            synchronous=bool(enabled) and status == "ON",
            heard=f"{acknowledgements} {self._answers}",
            behind_bytes=0 if self._behind_looks < BEHIND_LOOKS_MAX else FAR_BEHIND_BYTES,
        )

    def _send_pulse(self, standby: Path | None) -> None:
        """One at a time: the last one may be waiting for the standby still."""
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.create_task(self._run_pulse(standby))

    async def _run_pulse(self, standby: Path | None) -> None:
        try:
            if standby is not None:
                async with session(standby, timeout_s=LOOK_TIMEOUT_S) as other:
                    self._answers += len(await other.execute("SELECT 1"))
                return
            if self._pulse_session is None:
                self._pulse_session = await connect(self._sockets, timeout_s=PULSE_TIMEOUT_S, replicated=True)
            await self._pulse_session.execute(PULSE)
        except Error:  # whether the engine is well the looks tell
            self._cut_pulse()


def _judged(error: Error) -> Vitals:
    message = message_of(error)
    if number_of(error) in STORAGE_FAULTS:
        return Vitals(answered=True, storage_fault=True, message=message)
    starting = any(words in message for words in NOT_YET)
    return Vitals(answered=starting or not silent(error), starting=starting, message=message)
