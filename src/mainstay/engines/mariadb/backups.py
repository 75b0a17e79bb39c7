"""Backups of MariaDB: a physical copy beside the data, as a server can be started on it, and its binary logs.

The copy is made by mariadb-backup and prepared at once, so that it is known to be good, that a restore is over when the
files are there, and that most of its blocks are those of the backup before. It needs no log to be consistent. It says
of itself up to which transaction it goes (mysql.gtid_slave_pos), and from which file on the log is replayed on it
(`replay.RECOVERY`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from mainstay.backups.log_archive import LogArchive, StoredSegment
from mainstay.backups.sources import walk
from mainstay.backups.verify_log import NeededSegment
from mainstay.engines.backups import BackupEnd, BackupHost, LogSource, Recovery, Standby
from mainstay.engines.mariadb import checking, exported
from mainstay.engines.mariadb.crash_copies import MariadbCrashCopies
from mainstay.engines.mariadb.lineages import as_owner, read_shipped
from mainstay.engines.mariadb.log_source import MariadbLogSource
from mainstay.engines.mariadb.physical_copy import CopyPosition, copy_running
from mainstay.engines.mariadb.replay import RECOVERY, MariadbReplay, Origin, read_origin
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.local_sessions import answering
from mainstay.engines.mysql_family.log_places import (
    FIRST_TIMELINE,
    SEGMENT_BYTES,
    Lineage,
    Part,
    Place,
    between,
    file_number,
    history_name,
    parse_lineage,
    parse_place,
    parse_segment,
    timeline_name,
)
from mainstay.engines.mysql_family.quoting import literal
from mainstay.engines.mysql_family.sessions import Error
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.unbuilt import NoImports
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeSpec, RestoreSpec
from mainstay.model.repository_job import BackupFacts

UNFINISHED = "data.backing-up-"
SHIPPING_PATIENCE_S = 60.0
SHIPPING_LOOK_S = 0.1
ROOM_PERCENT = 110
SETTLE_PATIENCE_S = 60.0

log = structlog.get_logger()


class MariadbBackups(NoImports):
    """`EngineBackups` for MariaDB."""

    segment_bytes = SEGMENT_BYTES
    log_directory = "."
    crash_copies = MariadbCrashCopies()

    def log_source(self, spec: NodeSpec, files: NodeFiles) -> LogSource:
        return MariadbLogSource(spec, files)

    def begin(
        self, spec: NodeSpec, host: BackupHost, backup_id: str, standby: Standby | None
    ) -> AbstractAsyncContextManager[PhysicalBackup]:
        return _physical_backup(spec, host, standby)

    def prepare_restored(self, data: Path, user: User) -> None:
        """Nothing has to be done: what was backed up is a data directory that says that it was restored."""
        read_origin(data)
        data.chmod(0o700)

    def recovering(self, files: NodeFiles) -> bool:
        return (files.data / RECOVERY).exists()

    def recovery(self, restore: RestoreSpec, files: NodeFiles, user: User, archive: LogArchive) -> Recovery:
        return MariadbReplay(restore, files, user, archive)

    def segments_after(self, name: str, count: int) -> list[str]:
        """None: how long a binary log is does not follow from its name."""
        return []

    def whole_segment(self, data: bytes) -> bytes:
        return data

    def recovery_failure(self, log_text: str) -> str:
        """Nothing: what fails is replaying, and that is done from outside (`MariadbReplay.failure`)."""
        return ""

    async def check(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, note: Callable[[int, int], None]
    ) -> tuple[str, ...]:
        return await checking.check_tables(files, note)

    def segments_between(
        self, start: str, end: str, timeline: str, history: str, stored: Sequence[StoredSegment]
    ) -> Sequence[NeededSegment]:
        begin, target = parse_place(start), parse_place(end)
        lineage = parse_lineage(history.encode()) if history else Lineage(timeline=target.timeline, first_file=0)
        return between(begin, target, lineage, stored, BINLOG)

    def history_file(self, timeline: str) -> str:
        return history_name(timeline)

    def position_in(self, segment: str, offset: int) -> str:
        part = parse_segment(segment)
        return str(Place(part.timeline, part.file, part.part * SEGMENT_BYTES + offset))

    def export_files(self, facts: BackupFacts, owner: str) -> dict[str, bytes]:
        return exported.files(facts, owner)

    def index_of(self, segment: str) -> int:
        return parse_segment(segment).index

    def index_at(self, position: str) -> int:
        """A binary log is read from its beginning."""
        place = parse_place(position)
        return Part(place.timeline, place.file, 0).index


class PhysicalBackup:
    """`OpenBackup` for MariaDB; see `_physical_backup`."""

    def __init__(self, copy: Path, place: Place, consistent_at: float, *, from_standby: bool) -> None:
        self._place = place
        self._consistent_at = consistent_at
        self.from_standby = from_standby
        self.sources: Sequence[SourceFile] = list(walk(copy))

    async def finish(self) -> BackupEnd:
        """See `OpenBackup`. The copy needs nothing of the log: both positions are one."""
        return BackupEnd(
            timeline=timeline_name(self._place.timeline),
            start_position=str(self._place),
            stop_position=str(self._place),
            consistent_at=self._consistent_at,
            extra_files=(),
            log=(),
        )


@asynccontextmanager
async def _physical_backup(spec: NodeSpec, host: BackupHost, standby: Standby | None) -> AsyncIterator[PhysicalBackup]:
    """Of a standby, its state when the copy is made: it has applied all that the leader had logged before.

    The place is the leader's in any case, from before the copy: what of the log behind it is in the copy is left out by
    its GTID.
    """
    await _await_shipping(spec, host.files)
    beside = host.files.volume if host.files.logs_on_volume else host.files.root
    await asyncio.to_thread(_remove_copies, host.files)
    await asyncio.to_thread(_require_room, host.files, beside)
    copy = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=beside))
    try:
        host.user.give(copy)
        source, position = host.files.sockets, await _logged(host.files)
        if standby is not None and await _settled(standby, position):
            source = standby.files.sockets
        else:
            standby = None
        try:
            changes = () if standby is None else await _events(host.files)
            copied = await copy_running(source, copy, host.build, host.user, changes=changes)
        except Permanent as error:  # no room, an engine that stopped: it may be gone at the next try
            raise Transient(f"copying failed: {error.message}", retry_after_s=2.0) from error
        if standby is not None and not standby.unchanged():
            raise Transient("the standby was restarted or has taken over while it was copied", retry_after_s=1.0)
        async with answering(host.files.sockets) as session:
            consistent_at = float(await session.value("SELECT UNIX_TIMESTAMP(NOW(6))"))
        place = await asyncio.to_thread(_finish_copy, host.files.data, copy, position, copied.gtids)
        yield PhysicalBackup(copy, place, consistent_at, from_standby=standby is not None)
    finally:
        await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)


async def _await_shipping(spec: NodeSpec, files: NodeFiles) -> None:
    """Until what is written from now on is sure to be shipped, if it is to be. Raises `Transient`."""
    if spec.archive is None:
        return
    deadline = asyncio.get_running_loop().time() + SHIPPING_PATIENCE_S
    while asyncio.get_running_loop().time() < deadline:
        shipped = await asyncio.to_thread(read_shipped, files.data)
        if shipped is not None and shipped.repository == spec.archive.prefix:
            return
        await asyncio.sleep(SHIPPING_LOOK_S)
    raise Transient("the log of the instance is not shipped yet")


async def _logged(files: NodeFiles) -> CopyPosition:
    """Where the leader's log ends now. Raises `Transient`."""
    async with answering(files.sockets) as session:
        [(name, offset, *_)] = await session.execute("SHOW MASTER STATUS")
        return CopyPosition(str(name), int(offset), str(await session.value("SELECT @@GLOBAL.gtid_binlog_pos")))


async def _events(files: NodeFiles) -> list[str]:
    """What a standby's copy must be told: there all events are disabled, whatever they are here. Raises `Transient`."""
    async with answering(files.sockets) as session:
        rows = await session.execute("SELECT db, name, status FROM mysql.event WHERE status <> 'SLAVESIDE_DISABLED'")
    return [
        f"UPDATE mysql.event SET status = {literal(str(status))}"  # noqa: S608 - quoted
        f" WHERE db = {literal(str(schema))} AND name = {literal(str(name))}"
        for schema, name, status in rows
    ]


async def _settled(standby: Standby, position: CopyPosition) -> bool:
    """Whether the standby has applied all of this; False if it does not get there."""
    if not position.gtids:
        return False
    try:
        async with answering(standby.files.sockets, timeout_s=SETTLE_PATIENCE_S * 2) as session:
            waited = await session.value("SELECT MASTER_GTID_WAIT(%s, %s)", (position.gtids, SETTLE_PATIENCE_S))
    except (Error, Transient) as error:
        log.warning("backup.standby_not_settled", node_id=standby.node_id, error=str(error))
        return False
    return waited == 0 and standby.unchanged()


def _finish_copy(data: Path, copy: Path, position: CopyPosition, gtids: str) -> Place:
    """Writes into the copy where in the log it is; that place."""
    shipped = read_shipped(data)
    timeline = FIRST_TIMELINE if shipped is None else shipped.lineage.timeline
    place = Place(timeline, file_number(position.file), position.offset)
    with as_owner(copy):
        (copy / RECOVERY).write_bytes(msgspec.json.encode(Origin(position=str(place), gtids=gtids)))
        (copy / RECOVERY).chmod(0o600)
    return place


def _remove_copies(files: NodeFiles) -> None:
    """What the backup of a killed agent has left."""
    for directory in (files.root, files.volume):
        for path in directory.glob(UNFINISHED + "*"):
            shutil.rmtree(path, ignore_errors=True)


def _require_room(files: NodeFiles, beside: Path) -> None:
    """Raises `Permanent` rather than fill the disk that a database, this one perhaps, lives on."""
    size = sum(one.size for one in walk(files.data) if not one.path.startswith(BINLOG))
    free = os.statvfs(beside)
    if size * ROOM_PERCENT // 100 > free.f_bavail * free.f_frsize:
        raise Permanent(
            f"a backup of MariaDB is copied beside the data first, which takes {size >> 20} MiB;"
            f" {beside} has {free.f_bavail * free.f_frsize >> 20} MiB free",
            hint="Allocate more storage." if beside == files.volume else "Make room on this host.",
        )
