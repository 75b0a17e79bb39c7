"""Bringing a restored database to its target: archived binary logs become relay logs, which the engine applies itself.

That is what a replica does with them, with parallel appliers that commit in the order of the log. What is applied is in
the database with its GTID, in the same transaction, so after a crash of anybody it goes on where it was. Relay logs
are made a batch ahead, of whole transactions, and every batch is checked: the engine has come to its last transaction.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mainstay.backups.log_archive import LogArchive
from mainstay.engines.mysql_family.binlog import FORMAT_DESCRIPTION, MAGIC, Event
from mainstay.engines.mysql_family.events import EventState, restore_from_log, set_status
from mainstay.engines.mysql_family.history import History, Logged, Reached
from mainstay.engines.mysql_family.layout import OPTION_FILE
from mainstay.engines.mysql_family.lineages import as_owner
from mainstay.engines.mysql_family.local_sessions import answering, run_all
from mainstay.engines.mysql_family.log_format import Gtid, LogFormat
from mainstay.engines.mysql_family.log_places import (
    Lineage,
    history_name,
    parse_lineage,
    parse_place,
    timeline_name,
)
from mainstay.engines.mysql_family.option_file import parse as parse_options
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, number_of, silent
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory, make_private_directory, write_atomically
from mainstay.host.processes import User
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.node import RestoreSpec

RECOVERY = "mainstay.recovery"
"""In every backup; while it is there the database has not reached its target."""

RELAY_LOG = "relaylog"
BATCH_BYTES = 64 << 20
FLUSH = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"
NO_SUCH_EVENT = 1539
LOOK_S = 0.02
AGAIN_S = 0.1
SESSION_TIMEOUT_S = 120.0

log = structlog.get_logger()


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself: a place in the log at or before its state, and what is still to be set right in it.

    `gtids`: up to where the copy has its source's log, if its own tables do not say so ("": they do). `events`: those
    whose state in the copy, which is a follower's, is not that in the leader. `set_right`: it was done.
    """

    position: str
    gtids: str = ""
    events: tuple[EventState, ...] = ()
    set_right: bool = False


def read_origin(data: Path) -> Origin:
    """Raises `Permanent` for data that is no backup's."""
    try:
        with as_owner(data):
            return msgspec.json.decode((data / RECOVERY).read_bytes(), type=Origin)
    except (OSError, msgspec.DecodeError) as error:
        raise Permanent(f"the backup does not say where in the log it was taken: {error}") from error


def write_origin(data: Path, origin: Origin) -> None:
    """Durable when it returns."""
    with as_owner(data):
        write_atomically(data / RECOVERY, msgspec.json.encode(origin))


def options(files: NodeFiles, words: Words) -> tuple[str, ...]:
    """Of the engine's start command while it is brought to its target: nothing else changes what is in it meanwhile.

    It need not be durable from transaction to transaction, and need not log what the archive has.
    """
    return (
        "--read-only=1",
        "--event-scheduler=OFF",
        "--lc-messages=en_US",  # what the applier says is read here
        f"--log-{words.follower}-updates=0",
        "--sync-binlog=0",
        "--innodb-flush-log-at-trx-commit=0",
        f"--relay-log={files.restoring / RELAY_LOG}",
        f"--relay-log-index={files.restoring / RELAY_LOG}.index",
        "--relay-log-recovery=0",
    )


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A relay log that is complete, up to the transaction `last` (None: it has none)."""

    path: Path
    last: Gtid | None
    final: bool


class FamilyReplay:
    """`Recovery` for the engines of this family."""

    words: Words
    log_format: LogFormat[Any]

    def __init__(self, restore: RestoreSpec, files: NodeFiles, user: User, archive: LogArchive) -> None:
        self._restore = restore
        self._files = files
        self._user = user
        self._archive = archive
        self._history: History | None = None
        self.failure = ""
        self.lacking = ""

    @property
    def served_bytes(self) -> int:
        """See `Recovery`."""
        return 0 if self._history is None else self._history.read_bytes

    async def run(self) -> None:
        """See `Recovery`."""
        while (self._files.data / RECOVERY).exists():
            try:
                async with answering(self._files.sockets, timeout_s=SESSION_TIMEOUT_S) as session:
                    await run_all(session, self.words.unseen)
                    await self._bring_to_target(session)
            except Transient:
                await asyncio.sleep(AGAIN_S)
            except (Error, MainstayError, OSError) as error:
                if isinstance(error, Error) and silent(error):
                    continue
                self.failure = message_of(error) if isinstance(error, Error) else str(error)
                log.error("restore.cannot_replay", error=self.failure)
                await self._shut_down()
                await asyncio.Event().wait()  # what went wrong is asked for when the engine has ended

    def remove(self) -> None:
        """See `Recovery`."""
        shutil.rmtree(self._files.restoring, ignore_errors=True)

    async def set_right(self, session: Session, origin: Origin) -> None:
        """What in the copy is not as in a database of its own, before anything is replayed; perhaps again.

        Raises `Error`.
        """
        for event in origin.events:
            try:
                await set_status(session, event, event.status)
            except Error as error:
                if silent(error) or number_of(error) != NO_SUCH_EVENT:
                    raise
                # It was made in this moment: its making is in the log.
                log.info("restore.no_such_event", name=event.name, error=message_of(error))

    async def overcome(self, session: Session, applied: str, error: str) -> bool:
        """Whether the applier, which has stopped with this error behind what is `applied`, goes on nevertheless.

        Raises `Error`.
        """
        return False

    async def tend(self, session: Session, applied: str) -> None:
        """Now and then while the log is replayed, up to `applied`: what must be there meanwhile. Raises `Error`."""
        return

    async def finish(self, session: Session) -> None:
        """Everything is replayed: the last thing before users are let in. Perhaps again. Raises `Error`."""
        return

    async def _bring_to_target(self, session: Session) -> None:
        origin = read_origin(self._files.data)
        await self._forget_relay_logs(session)
        if not origin.set_right:
            await self.set_right(session, origin)
            await session.execute(FLUSH)  # what is committed meanwhile need not be durable (`options`)
            await asyncio.to_thread(write_origin, self._files.data, msgspec.structs.replace(origin, set_right=True))
        if not self._restore.target.immediate:
            await self._replay(session, origin)
            await restore_from_log(session)
        await self.finish(session)
        await self._open(session)

    async def _replay(self, session: Session, origin: Origin) -> None:
        """Makes batches in a thread, one ahead of what is being applied."""
        have = self.log_format.transactions(str(await session.value(self.words.applied)))
        start = parse_place(origin.position)
        timeline = self._restore.target.timeline or timeline_name(start.timeline)
        lineage = await asyncio.to_thread(_lineage, self._archive, timeline)
        self._history = History(self._archive, self.log_format, lineage, start, have, self._restore.target)
        make_private_directory(self._files.restoring)
        self._user.give(self._files.restoring)
        batches = self._batches(self._history)
        making = asyncio.ensure_future(asyncio.to_thread(next, batches, None))
        try:
            while (batch := await making) is not None:
                if not batch.final:
                    making = asyncio.ensure_future(asyncio.to_thread(next, batches, None))
                await self._apply(session, batch)
                if batch.final:
                    return
        finally:
            with suppress(MainstayError, OSError):
                await making

    def _batches(self, history: History) -> Iterator[Batch]:
        """Relay logs in files of their own, which are renamed when it is their turn. Blocking."""
        found = history.read()
        number, description, final = 0, b"", False
        while not final:
            number += 1
            path = self._files.restoring / f"next-{number}"
            with as_owner(self._files.restoring):
                writer = _Writer(path, description, self.log_format)
            try:
                final = writer.fill(found, history)
                description = writer.description
                batch = Batch(path=path, last=writer.last, final=final)
            finally:
                writer.close()
            yield batch

    async def _apply(self, session: Session, batch: Batch) -> None:
        if batch.last is not None:
            relay_log = self._files.restoring / f"{RELAY_LOG}.000001"
            with as_owner(self._files.restoring):
                batch.path.rename(relay_log)
                (self._files.restoring / f"{RELAY_LOG}.index").write_text(f"{relay_log}\n")
            await session.execute(self.words.set_relay_log, (relay_log.name,))
            await session.execute(f"START {self.words.follower.upper()} SQL_THREAD")
            await self._await_end(session, batch.last)
            await self._forget_relay_logs(session)
        batch.path.unlink(missing_ok=True)

    async def _await_end(self, session: Session, last: Gtid) -> None:
        """Until everything is applied, which is committed in the order of the log. Raises `Permanent`, `Transient`."""
        follower = self.words.follower.title()
        while True:
            [status] = await session.records(f"SHOW {follower.upper()} STATUS")
            applied = str(await session.value(self.words.applied))
            if last in self.log_format.transactions(applied):
                return
            error = str(status["Last_SQL_Error"] or "")  # MariaDB has errors without a number
            if status[f"{follower}_SQL_Running"] != "No":
                await self.tend(session, applied)
            elif not error:
                raise Transient("the engine has stopped replaying the log")
            elif not await self.overcome(session, applied, error):
                raise Permanent(f"a transaction of the log cannot be applied: {error}")
            await asyncio.sleep(LOOK_S)

    async def _forget_relay_logs(self, session: Session) -> None:
        """GTIDs that were applied stay known."""
        follower = self.words.follower.upper()
        if await session.records(f"SHOW {follower} STATUS"):
            await session.execute(f"STOP {follower}")
        await session.execute(f"RESET {follower} ALL")

    async def _open(self, session: Session) -> None:
        """From now on it is a database like any other."""
        wanted = parse_options((self._files.configuration / OPTION_FILE).read_text())
        for name in ("sync_binlog", "innodb_flush_log_at_trx_commit", "event_scheduler"):
            await session.execute(f"SET GLOBAL {name} = {wanted.get(name) or 'DEFAULT'}")
        await session.execute(FLUSH)
        with as_owner(self._files.data):
            (self._files.data / RECOVERY).unlink()
        fsync_directory(self._files.data)
        await session.execute("SET GLOBAL read_only = 0")

    async def _shut_down(self) -> None:
        """The engine's end is what tells that the restore has failed."""
        with suppress(Error, MainstayError):
            async with answering(self._files.sockets) as session:
                await session.execute("SHUTDOWN")


class _Writer:
    """One relay log. Transactions that are not complete, or beyond the target, are cut off again."""

    def __init__(self, path: Path, description: bytes, log_format: LogFormat[Any]) -> None:
        self._file = path.open("wb")
        self._file.write(MAGIC + description)
        self._format = log_format
        self.description = description
        self.last: Gtid | None = None
        self._open_since: int | None = None
        self._open_gtid: Gtid | None = None
        self._begun: list[tuple[int, Gtid | None]] = []

    def fill(self, found: Iterator[Logged | Reached], history: History) -> bool:
        """Writes a batch; whether the target is reached with it."""
        first = history.target.count
        for one in found:
            if isinstance(one, Reached):
                if one.after is not None and one.after - first < len(self._begun):
                    self._cut(*self._begun[one.after - first])
                self._end_open()
                return True
            if one.begins is not None:
                self._end_open()
                self._begun.append((self._file.tell(), self.last))
                self._open_since, self._open_gtid = self._file.tell(), one.begins
            elif self._open_since is None or one.event.kind in self._format.heading:
                if self._begin_file(one.event):
                    return False
                continue
            self._file.write(one.event.data)
            if one.ends:
                self.last, self._open_since = self._open_gtid, None
                if self._file.tell() >= BATCH_BYTES and not history.target.undecided:
                    return False
        raise AssertionError("a history ends with what was reached")

    def close(self) -> None:
        """No more is written."""
        self._file.close()

    def _begin_file(self, event: Event) -> bool:
        """An event of the heading of a file of the log; whether a relay log of its own begins with it."""
        self._end_open()
        if event.kind != FORMAT_DESCRIPTION:
            self.description += event.data
            self._file.write(event.data)
            return False
        self.description = event.closed
        if self._format.counts_anew:
            if self.last is not None:
                return True
            self._file.seek(len(MAGIC))
            self._file.truncate()
        self._file.write(event.closed)
        return False

    def _end_open(self) -> None:
        """A crash has cut off the transaction that was being written."""
        if self._open_since is not None:
            self._cut(self._open_since, self.last)

    def _cut(self, at: int, last: Gtid | None) -> None:
        self._file.seek(at)
        self._file.truncate()
        self.last, self._open_since = last, None


def _lineage(archive: LogArchive, timeline: str) -> Lineage:
    content = archive.read_small(history_name(timeline))
    if content is None:
        raise Permanent(f"the log archive lacks {history_name(timeline)}")
    return parse_lineage(content)
