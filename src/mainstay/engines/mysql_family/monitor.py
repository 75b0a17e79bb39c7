"""Watching a primary and the standby that follows it, through sessions kept open.

Looks write nothing that is replicated, so that they never wait for the standby. What does wait for it is a pulse: a
small transaction in a session of its own. That it was acknowledged is the only word of itself that a standby sends; as
long as no commit waits for it, the pulse is a question to the standby's own socket, which is beside the primary's.

A primary without room for its binary log does not fail: every commit waits until somebody makes room, which MySQL and
MariaDB alike see once a minute, and whoever asks for anything else is answered. So it is a pulse that does not end, and
a disk that is full, by which that is told. MariaDB's looks need a little room themselves, for a temporary table, and
fail at once where there is none; but a little may be there again while commits still wait. Either way it counts only
where the standby has room: where one full disk serves both, nothing is won by letting the other one lead.

A user may lock out whoever writes (FLUSH TABLES WITH READ LOCK, LOCK TABLES, as dumps do). That is no fault of the
primary, and a failover would end the very session that asked for it: our writes give up waiting for a lock after a
second, and nothing is concluded from them.
"""

from __future__ import annotations

import asyncio
import math
import os
from contextlib import suppress
from pathlib import Path

from pymysql.constants import ER

from mainstay.engines.base import Vitals
from mainstay.engines.mysql_family.heartbeat import PULSE, WRITE
from mainstay.engines.mysql_family.local_sessions import connect, session
from mainstay.engines.mysql_family.sessions import SHUT_OUT, Error, Session, message_of, number_of, silent
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles

LOOK_TIMEOUT_S = 1.5
"""For the write of a look, and for what is asked after it."""

LOCK_WAIT = "SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1"
"""Whole seconds, and less than LOOK_TIMEOUT_S: that a lock is in the way is said before it would look like silence."""

LOOKS_PER_SESSION = 20
"""After so many a new session shows that the engine takes new ones."""

PULSE_INTERVAL_S = 1.2
"""By the clock and not by looks: on a busy host these take long, and a standby is not silent for that."""

PULSE_TIMEOUT_S = 600.0
QUESTION_TIMEOUT_S = 5.0
PULSE_PATIENCE_S = 2.0
FULL_BYTES = 1 << 20
"""A disk is full on which there is no more than this for the engine."""

BEHIND_LOOKS_MAX = 10
"""A source that is busy is seen sending most of the time: not once idle in so many looks means that it lags."""

FAR_BEHIND_BYTES = 1 << 40
STORAGE_FAULTS = frozenset(
    {ER.DISK_FULL, ER.ERROR_ON_WRITE, ER.CANT_OPEN_FILE, ER.ERROR_ON_READ, 1034, 1194, 1290, 1836}
)
"""Full, failing or damaged; and read-only, which a primary can only be by mistake."""

NO_ROOM = frozenset({ER.DISK_FULL, ER.ERROR_ON_WRITE, ER.CANT_OPEN_FILE})
"""What is said of a full disk, but not of a full one only."""

NOT_YET = ("No such file", "Connection refused")
# Beside an aggregate MariaDB answers 0 for a variable that is ON (11.8.9), unless it is in one itself.
LOOK = """SELECT COALESCE(MAX(p.STATE), ''), COUNT(p.ID),
 (SELECT VARIABLE_VALUE FROM {status} WHERE VARIABLE_NAME = '{semi_sync}status'),
 (SELECT VARIABLE_VALUE FROM {status} WHERE VARIABLE_NAME = '{acknowledged}'),
 MAX(@@GLOBAL.{semi_sync}enabled)
 FROM information_schema.PROCESSLIST AS p WHERE p.USER = %s AND p.COMMAND LIKE 'Binlog Dump%%'"""


class FamilyMonitor:
    """`Monitor` for the engines of this family."""

    def __init__(self, files: NodeFiles, words: Words) -> None:
        self._files = files
        self._sockets: Path = files.sockets
        self._words = words
        self._query = LOOK.format(status=words.status_table, semi_sync=words.semi_sync, acknowledged=words.acknowledged)
        self._session: Session | None = None
        self._looks = 0
        self._behind_looks = 0
        self._pulse: asyncio.Task[None] | None = None
        self._pulse_session: Session | None = None
        self._pulse_begun = -math.inf
        self._answers = 0

    async def look(self, follower: str, *, write: bool) -> Vitals:
        """See `Monitor`."""
        try:
            if write:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self._write()
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return await self._look(follower)
        except TimeoutError:
            self._cut()
            return Vitals(answered=False, message=f"no answer within {LOOK_TIMEOUT_S} s")
        except Error as error:
            self._cut()
            if number_of(error) in NO_ROOM and _is_full(self._files.volume) and not self._has_room(follower):
                return Vitals(answered=True, no_room=True, message=message_of(error))
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

    async def _asked(self) -> Session:
        """The session that looks are made through: a new one now and then."""
        if self._session is not None and self._looks >= LOOKS_PER_SESSION:
            ended, self._session = self._session, None
            await ended.close()
        if self._session is None:
            self._session, self._looks = await connect(self._sockets, timeout_s=LOOK_TIMEOUT_S), 0
            await self._session.execute(LOCK_WAIT)
        return self._session

    async def _write(self) -> None:
        session = await self._asked()
        try:
            await session.execute(WRITE)
        except Error as error:
            if number_of(error) != ER.LOCK_WAIT_TIMEOUT:
                raise

    async def _look(self, follower: str) -> Vitals:
        session = await self._asked()
        self._looks += 1
        [(state, dumps, status, acknowledgements, enabled)] = await session.execute(
            self._query, (f"{self._words.follower_user}{follower}",)
        )
        streaming = bool(dumps)
        if streaming:
            self._send_pulse(self._sockets.with_name(follower), commits_wait=bool(enabled))
        if self._waits_for_room():
            room = self._has_room(follower)
            return Vitals(
                answered=True, streaming=streaming, storage_fault=room, no_room=not room, message="the disk is full"
            )
        self._behind_looks = 0 if state.startswith(self._words.sent_all) else self._behind_looks + 1
        return Vitals(
            answered=True,
            streaming=streaming,
            synchronous=bool(enabled) and status == "ON",
            heard=f"{acknowledgements} {self._answers}",
            behind_bytes=0 if self._behind_looks < BEHIND_LOOKS_MAX else FAR_BEHIND_BYTES,
        )

    def _send_pulse(self, standby: Path, *, commits_wait: bool) -> None:
        """One at a time: the last one may be waiting for the standby still."""
        now = asyncio.get_running_loop().time()
        if (self._pulse is None or self._pulse.done()) and now - self._pulse_begun >= PULSE_INTERVAL_S:
            self._pulse_begun = now
            self._pulse = asyncio.create_task(self._run_pulse(standby, commits_wait))

    def _waits_for_room(self) -> bool:
        """Whether commits wait for room."""
        if self._pulse is None or self._pulse.done():
            return False
        if asyncio.get_running_loop().time() - self._pulse_begun < PULSE_PATIENCE_S:
            return False
        return _is_full(self._files.volume)

    def _has_room(self, follower: str) -> bool:
        """Whether the follower has some where it is."""
        return not _is_full(self._files.of(follower).volume)

    async def _run_pulse(self, standby: Path, commits_wait: bool) -> None:
        """A lock in its way keeps the pulse from being a commit that waits: then, too, the standby is asked itself."""
        try:
            if not (commits_wait and await self._commit_pulse()):
                async with session(standby, timeout_s=QUESTION_TIMEOUT_S) as other:
                    self._answers += len(await other.execute("SELECT 1"))
        except Error:  # whether the engine is well the looks tell
            self._cut_pulse()

    async def _commit_pulse(self) -> bool:
        """Whether the pulse was committed, and so acknowledged; False if a lock is in its way. Raises `Error`."""
        if self._pulse_session is None:
            self._pulse_session = await connect(self._sockets, timeout_s=PULSE_TIMEOUT_S, replicated=True)
            await self._pulse_session.execute(LOCK_WAIT)
        try:
            await self._pulse_session.execute(PULSE)
        except Error as error:
            if number_of(error) != ER.LOCK_WAIT_TIMEOUT:
                raise
            return False
        return True


def _is_full(directory: Path) -> bool:
    """What cannot be seen is held for full."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return True
    return found.f_bavail * found.f_frsize <= FULL_BYTES


def _judged(error: Error) -> Vitals:
    message = message_of(error)
    if number_of(error) in STORAGE_FAULTS:
        return Vitals(answered=True, storage_fault=True, message=message)
    if number_of(error) in SHUT_OUT:  # it says nothing about the standby, until it has been started again
        return Vitals(answered=True, starting=True, message=message)
    starting = any(words in message for words in NOT_YET)
    return Vitals(answered=starting or not silent(error), starting=starting, message=message)
