"""The write-ahead log of a running primary, as its files grow.

What is flushed is in the files and stays as it is, also after a crash (a record cut off by it is overwritten only
behind the flushed page), so it can be read beside the engine. A physical replication slot makes the engine keep what
has not been stored; manual 27.2.6.

A restore to a moment needs a commit *after* that moment in the log, otherwise PostgreSQL refuses to end there (manual
20.5.6, recovery_target_time). So while there is news a small transaction of our own is written behind it, and the
moment that may be promised is the one just before.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec
import psycopg

from mainstay.backups.log_archive import LogArchive
from mainstay.engines.backups import LogLook, LogPiece, LogPlace
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.sessions import Session, connect
from mainstay.engines.postgresql.wal import (
    SEGMENT_BYTES,
    Ancestor,
    format_lsn,
    parse_history,
    parse_lsn,
    parse_segment,
    segment_name,
    timeline_of,
)
from mainstay.model.errors import Transient
from mainstay.model.node import NodeSpec

SLOT = "mainstay_archive"
LOOK_TIMEOUT_S = 30.0
IDLE_MARK_INTERVAL_S = 15.0
"""How often the promise is renewed when nothing happens."""

OWN_BYTES = 128
"""What the log grows by our own mark, and by less than the smallest transaction that changes something."""

LOOK = "SELECT extract(epoch FROM clock_timestamp())::float8, pg_current_wal_insert_lsn()::text"
MARK = "SELECT extract(epoch FROM clock_timestamp())::float8, pg_logical_emit_message(true, 'mainstay', '')::text"
FLUSHED = "SELECT pg_current_wal_flush_lsn()::text, pg_walfile_name(pg_current_wal_flush_lsn())"
KEPT = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
CREATE_SLOT = "SELECT pg_create_physical_replication_slot(%s, true)"


class _Flushed(msgspec.Struct, frozen=True):
    position: int
    timeline: int
    moment: float


class PostgresqlLogSource:
    """`LogSource` for PostgreSQL."""

    def __init__(self, spec: NodeSpec, files: NodeFiles) -> None:
        self._sockets, self._port = files.sockets, spec.port
        self._wal = files.data / "pg_wal"
        self._session: Session | None = None
        self._mark = 0
        self._quiet = False
        self._marked_at = 0.0
        self._resumed = False
        self._ancestors: tuple[int, tuple[Ancestor, ...]] = (0, ())

    async def resume(self, archive: LogArchive, after: LogPlace) -> None:
        """Nothing: positions are the same on every node, and the server tells where timelines part."""

    async def look(self, after: LogPlace | None) -> LogLook:
        """See `LogSource`."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                session = await self._open()
                kept = await self._kept(session)
                flushed = await self._flushed(session)
        except (psycopg.Error, TimeoutError) as error:
            await self.close()
            raise Transient(f"the engine does not answer: {str(error).strip()}") from error
        return self._compare(after, kept, flushed)

    async def release(self, until: LogPlace) -> None:
        """See `LogSource`."""
        _timeline, number = parse_segment(until.segment)
        position = format_lsn(number * SEGMENT_BYTES + until.offset)
        await self._ask("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", SLOT, position)

    async def give_up(self) -> None:
        """See `LogSource`."""
        await self._ask(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", SLOT
        )

    async def close(self) -> None:
        """See `LogSource`."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):  # whatever it says: it is not used any more
                await session.close()

    async def _ask(self, query: str, *values: str) -> None:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await (await self._open()).execute(query.encode(), values)
        except (psycopg.Error, TimeoutError) as error:
            await self.close()
            raise Transient(f"the engine does not answer: {str(error).strip()}") from error

    async def _open(self) -> Session:
        if self._session is None:
            self._session = await connect(self._sockets, self._port)
        return self._session

    async def _kept(self, session: Session) -> int:
        """From where on the engine keeps the log for us; it begins to now if it did not before."""
        row = await (await session.execute(KEPT, (SLOT,))).fetchone()
        if row is None:
            await session.execute(CREATE_SLOT, (SLOT,))
            row = await (await session.execute(KEPT, (SLOT,))).fetchone()
        if row is None or row[0] is None:
            raise Transient("the engine has given up the log that was to be kept for the archive")
        return parse_lsn(row[0])

    async def _flushed(self, session: Session) -> _Flushed:
        now, inserted = await _row(session, LOOK)
        idle = self._mark <= parse_lsn(inserted) <= self._mark + OWN_BYTES
        moment = 0.0
        # One mark more when it falls quiet: promises are whole seconds, and the last one may be before the last commit.
        falls_quiet, self._quiet = idle and not self._quiet, idle
        if not idle or falls_quiet or not 0.0 <= now - self._marked_at <= IDLE_MARK_INTERVAL_S:
            moment, mark = await _row(session, MARK)
            self._mark, self._marked_at = parse_lsn(mark), moment
        position, name = await _texts(session, FLUSHED)
        return _Flushed(parse_lsn(position), int(name[:8], 16), moment)

    def _compare(self, after: LogPlace | None, kept: int, flushed: _Flushed) -> LogLook:
        ancestors = self._history(flushed.timeline)
        begin = _begin(after, kept, flushed, ancestors) // SEGMENT_BYTES
        # What was not released is not known to be stored: a backup stores the log it needs beyond what we had shipped.
        first, self._resumed = begin if self._resumed else min(begin, kept // SEGMENT_BYTES), True
        pieces, missing = [], ""
        for number in range(first, flushed.position // SEGMENT_BYTES + 1):
            timeline = timeline_of(number, flushed.timeline, ancestors)
            name = segment_name(timeline, number)
            end = min(flushed.position - number * SEGMENT_BYTES, SEGMENT_BYTES)
            start = after.offset if after is not None and after.segment == name else 0
            if start >= end:
                continue
            path = self._wal / name
            if not path.exists():
                if number < begin:
                    continue  # a slot from a former life as primary: the archive has gone on without this one
                missing = name
                break
            pieces.append(
                LogPiece(
                    timeline=f"{timeline:08X}", segment=name, path=path, start=start, end=end, last=end == SEGMENT_BYTES
                )
            )
        return LogLook(
            moment=flushed.moment,
            position=format_lsn(flushed.position),
            timeline=f"{flushed.timeline:08X}",
            pieces=tuple(pieces),
            small_files=tuple((path.name, path) for path in self._history_files(flushed.timeline)),
            unshipped_bytes=sum(piece.end - piece.start for piece in pieces),
            missing=missing,
        )

    def _history(self, timeline: int) -> tuple[Ancestor, ...]:
        if self._ancestors[0] != timeline:
            path = self._wal / f"{timeline:08X}.history"
            self._ancestors = (timeline, parse_history(path.read_text()) if path.exists() else ())
        return self._ancestors[1]

    def _history_files(self, timeline: int) -> list[Path]:
        names = [f"{one.timeline:08X}.history" for one in self._history(timeline)] + [f"{timeline:08X}.history"]
        return [path for name in names if (path := self._wal / name).exists()]


def _begin(after: LogPlace | None, kept: int, flushed: _Flushed, ancestors: tuple[Ancestor, ...]) -> int:
    """The position to go on from: where we were, or where our timeline was left, if that was before."""
    if after is None:
        return kept - kept % SEGMENT_BYTES
    timeline, number = parse_segment(after.segment)
    position = number * SEGMENT_BYTES + after.offset
    for ancestor in ancestors:
        if ancestor.timeline == timeline:
            return min(position, ancestor.ends_at)
    if timeline == flushed.timeline:
        return position
    return kept - kept % SEGMENT_BYTES  # a history that has nothing to do with this one


async def _row(session: Session, query: str) -> tuple[float, str]:
    row = await (await session.execute(query.encode())).fetchone()
    if row is None:
        raise Transient("the engine gave no answer")
    return float(row[0]), str(row[1])


async def _texts(session: Session, query: str) -> tuple[str, str]:
    row = await (await session.execute(query.encode())).fetchone()
    if row is None:
        raise Transient("the engine gave no answer")
    return str(row[0]), str(row[1])
