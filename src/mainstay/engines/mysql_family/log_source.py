"""The binary logs of a running leader, as they grow.

Where SHOW BINARY LOGS tells that the log ends is between two transactions, and is forced to the disk before it is
believed, by the engine (sync_binlog 1) or by us. Files that are not stored yet are kept: as long as there are old ones
the engine removes none.

A moment can be restored if every transaction acknowledged until then is stored, and something that comes after it. So
while there is news, a small transaction of our own is written behind it, a mark, with the time that it is. MariaDB's
log says nothing else of the time that could be relied on: its timestamps are whole seconds, are those of the beginning
of a statement, and may be set by users.

After a failover the log goes on in other files, the new leader's: it has written down what it had applied when it took
over (`lineages.LEADS_FROM`). They are shipped on a timeline of their own, from the file on that goes on where the
archive ends; what of the old leader's log it never had is no part of the history (`Stretch.ends_at`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mainstay.backups.log_archive import LogArchive
from mainstay.engines.backups import LogLook, LogPiece, LogPlace
from mainstay.engines.mysql_family.binlog import Event, events
from mainstay.engines.mysql_family.events import LoggedEvents
from mainstay.engines.mysql_family.followers import follows
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.lineages import (
    HISTORY,
    LeadsFrom,
    Shipped,
    as_owner,
    read_leads_from,
    read_shipped,
    write_shipped,
)
from mainstay.engines.mysql_family.local_sessions import binary_logs, connect
from mainstay.engines.mysql_family.log_format import LogFormat, Transactions
from mainstay.engines.mysql_family.log_places import (
    FIRST_TIMELINE,
    SEGMENT_BYTES,
    Lineage,
    Part,
    Place,
    file_number,
    history_name,
    parse_lineage,
    parse_segment,
    timeline_name,
)
from mainstay.engines.mysql_family.procedures import APPLY
from mainstay.engines.mysql_family.sessions import Error, Session, message_of
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles
from mainstay.model.errors import Transient
from mainstay.model.node import NodeSpec

LOOK_TIMEOUT_S = 30.0
IDLE_MARK_INTERVAL_S = 15.0
"""How often the promise is renewed when nothing happens."""

HELD_AFTER_S = 600.0
"""So old must a binary log be that is not stored yet for the engine to be told to keep all of them."""

READ_BYTES = 1 << 20
NOW = "SELECT UNIX_TIMESTAMP(NOW(6)), @@GLOBAL.sync_binlog"
MARK = "REPLACE INTO mysql.rds_heartbeat2 VALUES (3, {microseconds})"
"""Logged as it stands here where `history` must find it in the log (`Words.mark_session`)."""

KEEP = "SET GLOBAL binlog_expire_logs_seconds = 0"


class FamilyLogSource:
    """`LogSource` for the engines of this family."""

    def __init__(self, spec: NodeSpec, files: NodeFiles, words: Words, log_format: LogFormat[Any]) -> None:
        self._words = words
        self._format = log_format
        self._files = files
        self._data = files.data
        self._repository = "" if spec.archive is None else spec.archive.prefix
        self._session: Session | None = None
        self._logged_events = LoggedEvents()
        self._lineage: Lineage | None = None
        self._archived: _Archived | None = None
        self._anew = False
        self._marked = ("", 0)
        self._marked_at = 0.0
        self._quiet = False
        self._held = False

    async def resume(self, archive: LogArchive, after: LogPlace) -> None:
        """See `LogSource`."""
        known = self._known()
        if known is None or timeline_name(known.timeline) != after.timeline:
            self._archived = await asyncio.to_thread(_archived, archive, after, self._format)

    async def look(self, after: LogPlace | None) -> LogLook:
        """See `LogSource`."""
        if follows(self._files):  # it has been told to lead, and has not applied everything yet
            raise Transient("the engine does not lead yet")
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                session = await self._open()
                moment, status, logs = await self._marked_status(session)
                unlogged = "" if self._lineage else str(await session.value(self._words.unlogged))
                look = await asyncio.to_thread(self._compare, after, moment, status, logs, unlogged)
                await self._hold(session, look.pieces)
                return look
        except (Error, TimeoutError) as error:
            self._cut()
            raise Transient(f"the engine does not answer: {_words(error)}") from error

    async def release(self, until: LogPlace) -> None:
        """Nothing: the engine removes what is older than users, and followers, want it."""

    async def give_up(self) -> None:
        """See `LogSource`."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await (await self._open()).execute(APPLY)
        except (Error, TimeoutError) as error:
            self._cut()
            raise Transient(f"the engine does not answer: {_words(error)}") from error
        self._held, self._anew = False, True

    async def close(self) -> None:
        """See `LogSource`."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _cut(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.cut()

    async def _open(self) -> Session:
        if self._session is None:
            self._session = await connect(self._files.sockets, timeout_s=LOOK_TIMEOUT_S, replicated=True)
            for statement in self._words.mark_session:
                await self._session.execute(statement)
        return self._session

    async def _marked_status(self, session: Session) -> tuple[float, tuple[str, int], list[int]]:
        """The moment before a mark, 0.0 if there is no news; where the log ends behind it, on the disk; its files."""
        [(now, sync)] = await session.execute(NOW)
        now, moment = float(now), 0.0
        logs = await binary_logs(session)
        idle = logs[-1] == self._marked
        # One mark more when it falls quiet: promises are whole seconds, and the last one may be before the last commit.
        falls_quiet, self._quiet = idle and not self._quiet, idle
        if not idle or falls_quiet or not 0.0 <= now - self._marked_at <= IDLE_MARK_INTERVAL_S:
            await self._logged_events.note(session, now)
            await session.execute(MARK.format(microseconds=int(now * 1e6)))
            logs = await binary_logs(session)
            self._marked, self._marked_at, moment = logs[-1], now, now
        if int(sync) != 1 or not self._words.end_is_forced:
            await asyncio.to_thread(_force, self._data / logs[-1][0])
        return moment, logs[-1], sorted(file_number(name) for name, _end in logs)

    async def _hold(self, session: Session, pieces: tuple[LogPiece, ...]) -> None:
        """Told to keep everything while something old is not stored, and no more when it is."""
        oldest = min((_age_s(piece.path) for piece in pieces[:1] if piece.last), default=0.0)
        if (oldest > HELD_AFTER_S) != self._held:
            self._held = not self._held
            await session.execute(KEEP if self._held else APPLY)

    def _compare(
        self, after: LogPlace | None, moment: float, status: tuple[str, int], logs: list[int], unlogged: str = ""
    ) -> LogLook:
        current = file_number(status[0])
        lineage = self._lineage or self._chosen(after, current, logs, unlogged)
        if lineage is None:
            self._anew = True
            return self._look(moment, Place(0, current, status[1]), missing="the log from before the failover")
        self._lineage = lineage
        begin = Part(lineage.timeline, lineage.first_file, 0)
        offset = 0
        if after is not None and parse_segment(after.segment).timeline == lineage.timeline:
            begin, offset = parse_segment(after.segment), after.offset
        end = Place(lineage.timeline, current, status[1])
        if begin.file not in logs:
            self._anew, self._lineage = True, None
            return self._look(moment, end, missing=f"{BINLOG}.{begin.file:06d}")
        pieces = [piece for file in range(begin.file, current + 1) for piece in self._pieces(begin, offset, file, end)]
        return self._look(moment, end, pieces=tuple(pieces))

    def _look(self, moment: float, end: Place, *, pieces: tuple[LogPiece, ...] = (), missing: str = "") -> LogLook:
        timeline = timeline_name(end.timeline)
        return LogLook(
            moment=moment,
            position=str(end),
            timeline=timeline,
            pieces=pieces,
            small_files=() if missing else ((history_name(timeline), self._data / HISTORY),),
            unshipped_bytes=sum(piece.end - piece.start for piece in pieces),
            missing=missing,
        )

    def _pieces(self, begin: Part, offset: int, file: int, end: Place) -> Iterator[LogPiece]:
        """What of one binary log is not stored yet. `offset` bytes of the segment `begin` are, or all of it."""
        path = self._data / f"{BINLOG}.{file:06d}"
        ended = file < end.file
        length = path.stat().st_size if ended else end.offset
        first = begin.part if file == begin.file else 0
        for part in range(first, length // SEGMENT_BYTES + 1):
            here = Part(end.timeline, file, part)
            start = offset if here == begin else 0
            stop = min(length - part * SEGMENT_BYTES, SEGMENT_BYTES)
            last = ended or stop == SEGMENT_BYTES
            if start < stop or (last and not stop and not start):
                yield LogPiece(
                    timeline=timeline_name(end.timeline),
                    segment=here.name(BINLOG),
                    path=path,
                    skipped=part * SEGMENT_BYTES,
                    start=start,
                    end=stop,
                    last=last,
                )

    def _known(self) -> Lineage | None:
        """What is shipped to this repository from this data directory, None if that has not begun."""
        shipped = read_shipped(self._data)
        return None if shipped is None or shipped.repository != self._repository else shipped.lineage

    def _chosen(self, after: LogPlace | None, current: int, logs: list[int], unlogged: str) -> Lineage | None:
        """On which timeline we are, None if nothing here goes on where the archive ends; durable if it is a new one."""
        known, archived = self._known(), self._archived
        if known is not None and (after is None or timeline_name(known.timeline) == after.timeline):
            chosen = known
            if self._anew:
                chosen = msgspec.structs.replace(known, first_file=current, unlogged=unlogged)
        elif archived is None:
            chosen = Lineage(timeline=FIRST_TIMELINE, first_file=current, unlogged=unlogged)
        elif self._anew or after is None:
            chosen = Lineage(timeline=archived.last.timeline + 1, first_file=current, unlogged=unlogged)
        else:
            found = self._goes_on(archived, logs)
            if found is None:
                return None
            chosen = Lineage(
                timeline=archived.last.timeline + 1,
                first_file=found.file,
                ancestors=archived.lineage.ended(archived.last, found.position),
                unlogged=found.unlogged,
            )
        self._anew = False
        if chosen != known:
            write_shipped(self._data, Shipped(repository=self._repository, lineage=chosen))
        return chosen

    def _goes_on(self, archived: _Archived, logs: list[int]) -> LeadsFrom | None:
        """From which log of a former follower nothing is left out behind the archive, with where it took over."""
        leads_from = read_leads_from(self._data)
        if leads_from is None:
            return None
        if archived.known.includes(leads_from.position) and leads_from.file in logs:
            return leads_from
        for file in sorted((one for one in logs if one < leads_from.file), reverse=True):
            found = _events_of(self._data / f"{BINLOG}.{file:06d}")
            if self._format.begins_within(found, leads_from.unlogged, archived.known):
                return msgspec.structs.replace(leads_from, file=file)
        return None


class _Archived(msgspec.Struct, frozen=True):
    """Where another leader's log ends in the archive: its last segment, what it tells until there, and its history."""

    last: Part
    known: Transactions
    lineage: Lineage


def _archived(archive: LogArchive, after: LogPlace, log_format: LogFormat[Any]) -> _Archived:
    last = parse_segment(after.segment)
    lineage = parse_lineage(archive.read_small(history_name(after.timeline)) or b"")
    stored = [
        one.segment for one in archive.segments(after.timeline) if parse_segment(one.segment.name).file == last.file
    ]
    content = events(archive.read_segment(segment) or b"" for segment in stored)
    return _Archived(last, log_format.told(content, lineage.unlogged), lineage)


def _events_of(path: Path) -> Iterator[Event]:
    with as_owner(path.parent):
        file = path.open("rb")
    with file:
        yield from events(iter(lambda: file.read(READ_BYTES), b""))


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _words(error: Error | TimeoutError) -> str:
    return message_of(error) if isinstance(error, Error) else f"no answer within {LOOK_TIMEOUT_S:.0f} s"
