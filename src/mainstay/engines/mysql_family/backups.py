"""Backups of this family: a physical copy of the data, and its binary logs.

The engine's own tool makes the copy while everybody goes on writing. It needs no binary log to be consistent, and says
which transactions it has, and from which place on the log is replayed on it (`replay.RECOVERY`). Most of its blocks are
those of the backup before.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from mainstay.backups.log_archive import LogArchive, StoredSegment
from mainstay.backups.verify_log import NeededSegment
from mainstay.engines.backups import BackupEnd, BackupHost, CrashCopies, LogSource, OpenBackup, Standby
from mainstay.engines.mysql_family import checking, exported
from mainstay.engines.mysql_family.events import KNOWN, EventState, present
from mainstay.engines.mysql_family.followers import follows
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.lineages import read_shipped
from mainstay.engines.mysql_family.local_sessions import answering, asking, binary_logs
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
from mainstay.engines.mysql_family.log_source import FamilyLogSource
from mainstay.engines.mysql_family.replay import (
    RECOVERY,
    FamilyReplay,
    Origin,
    read_origin,
)
from mainstay.engines.mysql_family.sessions import Error
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles
from mainstay.host.fencing import fence
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeSpec, RestoreSpec
from mainstay.model.repository_job import BackupFacts

UNFINISHED = "data.backing-up-"
SHIPPING_PATIENCE_S = 60.0
SHIPPING_LOOK_S = 0.1
SETTLE_PATIENCE_S = 60.0

log = structlog.get_logger()


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that may be copied now: of the engine whose socket is in `source`, the standby's if there is one here.

    `working` is an empty directory of the engine's user, on the volume or beside it, which goes when the backup ends.
    `end` is where the leader's log ended before. `events`: what is to be set right in a copy of a standby, on which no
    event is enabled.
    """

    spec: NodeSpec
    host: BackupHost
    source: Path
    working: Path
    end: tuple[str, int]
    standby: Standby | None
    events: tuple[EventState, ...]


class FamilyBackups(ABC):
    """`EngineBackups` but for what MariaDB and MySQL each do in their own way. `title`: what people call the engine."""

    segment_bytes = SEGMENT_BYTES
    log_directory = "."
    title: str
    words: Words
    replay: type[FamilyReplay]
    stock: exported.Stock
    crash_copies: CrashCopies | None = None

    @abstractmethod
    def open(self, begun: Begun) -> AbstractAsyncContextManager[OpenBackup]:
        """The copy, made or about to be made. Raises `Permanent`, `Transient`."""

    def log_source(self, spec: NodeSpec, files: NodeFiles) -> LogSource:
        return FamilyLogSource(spec, files, self.words, self.replay.log_format)

    def begin(
        self, spec: NodeSpec, host: BackupHost, backup_id: str, standby: Standby | None
    ) -> AbstractAsyncContextManager[OpenBackup]:
        return self._begin(spec, host, standby)

    @abstractmethod
    async def complete_copy(self, data: Path, build: Callable[[], EngineBuild], user: User) -> None:
        """See `EngineBackups`."""

    def prepare_restored(self, data: Path, user: User) -> None:
        """Nothing has to be done: what was backed up is a data directory that says that it was restored."""
        read_origin(data)
        data.chmod(0o700)

    def recovering(self, files: NodeFiles) -> bool:
        return (files.data / RECOVERY).exists()

    def recovery(self, restore: RestoreSpec, files: NodeFiles, user: User, archive: LogArchive) -> FamilyReplay:
        return self.replay(restore, files, user, archive)

    def segments_after(self, name: str, count: int) -> list[str]:
        """None: how long a binary log is does not follow from its name."""
        return []

    def whole_segment(self, data: bytes) -> bytes:
        return data

    def recovery_failure(self, log_text: str) -> str:
        """Nothing: what fails is replaying, and that is done from outside (`FamilyReplay.failure`)."""
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
        return exported.files(self.stock, facts, owner)

    def index_of(self, segment: str) -> int:
        return parse_segment(segment).index

    def index_at(self, position: str) -> int:
        """A binary log is read from its beginning."""
        place = parse_place(position)
        return Part(place.timeline, place.file, 0).index

    def import_refusal(self, names: Mapping[str, int]) -> str:
        self._refuse_imports()

    async def check_import(self, data: Path, build: EngineBuild, user: User, *, has_manifest: bool) -> None:
        self._refuse_imports()

    async def convert_import(self, data: Path, build: EngineBuild, user: User, master: str) -> None:
        self._refuse_imports()

    def _refuse_imports(self) -> NoReturn:
        """Never asked: the API refuses what would need it (`Feature.DATA_EXCHANGE`)."""
        raise Permanent(f"imports are not built for {self.title}")

    @asynccontextmanager
    async def _begin(self, spec: NodeSpec, host: BackupHost, standby: Standby | None) -> AsyncIterator[OpenBackup]:
        """Of a standby, its state when the copy is made: it has applied all that the leader had logged before.

        The place is the leader's in any case, from before the copy: what of the log behind it is in the copy is left
        out by its GTID.
        """
        await _await_shipping(spec, host.files)
        beside = host.files.volume if host.files.logs_on_volume else host.files.root
        await _remove_copies(host.files)
        working = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=beside))
        try:
            host.user.give(working)
            source, (end, logged) = host.files.sockets, await self._logged(host.files)
            if standby is not None and await self._settled(standby, logged):
                source = standby.files.sockets
            else:
                standby = None
            events = () if standby is None else await _events(host.files)
            begun = Begun(spec=spec, host=host, source=source, working=working, end=end, standby=standby, events=events)
            async with self.open(begun) as opened:
                yield opened
        finally:
            await asyncio.to_thread(shutil.rmtree, working, ignore_errors=True)

    async def _logged(self, files: NodeFiles) -> tuple[tuple[str, int], str]:
        """Where the leader's log ends now: name and offset, and the GTIDs of all that is in it. Raises `Transient`."""
        async with asking(files.sockets) as session:
            end = (await binary_logs(session))[-1]
            return end, str(await session.value(self.words.logged) or "")

    async def _settled(self, standby: Standby, logged: str) -> bool:
        """Whether the standby has applied all of this; False if it does not get there."""
        if not logged:
            return False
        try:
            async with answering(standby.files.sockets, timeout_s=SETTLE_PATIENCE_S * 2) as session:
                waited = await session.value(self.words.wait_applied, (logged, SETTLE_PATIENCE_S))
        except (Error, Transient) as error:
            log.warning("backup.standby_not_settled", node_id=standby.node_id, error=str(error))
            return False
        return waited == 1 and standby.unchanged()


async def end_of(begun: Begun) -> BackupEnd:
    """When the copy is made. It needs nothing of the log: both positions are one. Raises `Transient`."""
    standby, files = begun.standby, begun.host.files
    if standby is not None and not standby.unchanged():
        raise Transient("the standby was restarted or has taken over while it was copied", retry_after_s=1.0)
    async with asking(files.sockets) as session:
        consistent_at = float(await session.value("SELECT UNIX_TIMESTAMP(NOW(6))"))
    place = await asyncio.to_thread(_place, files.data, begun.end)
    origin = Origin(position=str(place), events=begun.events)
    return BackupEnd(
        timeline=timeline_name(place.timeline),
        start_position=str(place),
        stop_position=str(place),
        consistent_at=consistent_at,
        extra_files=(SourceFile(path=RECOVERY, mode=0o600, content=msgspec.json.encode(origin)),),
        log=(),
    )


async def _await_shipping(spec: NodeSpec, files: NodeFiles) -> None:
    """Until what is written from now on is sure to be shipped, if it is to be. Raises `Transient`."""
    if spec.archive is None:
        return
    if spec.peer is None and follows(files):
        raise Transient("the log of a read replica is not shipped: it is backed up when it was promoted")
    deadline = asyncio.get_running_loop().time() + SHIPPING_PATIENCE_S
    while asyncio.get_running_loop().time() < deadline:
        shipped = await asyncio.to_thread(read_shipped, files.data)
        if shipped is not None and shipped.repository == spec.archive.prefix:
            return
        await asyncio.sleep(SHIPPING_LOOK_S)
    raise Transient("the log of the instance is not shipped yet")


async def _events(files: NodeFiles) -> tuple[EventState, ...]:
    """What a standby's copy must be told: there all events are disabled, whatever they are here. Raises `Transient`."""
    async with asking(files.sockets) as session:
        return tuple(one for one in await present(session) if one.status in KNOWN)


def _place(data: Path, end: tuple[str, int]) -> Place:
    """The place in the archive's log that is this end of a binary log."""
    shipped = read_shipped(data)
    timeline = FIRST_TIMELINE if shipped is None else shipped.lineage.timeline
    name, offset = end
    return Place(timeline, file_number(name), offset)


async def _remove_copies(files: NodeFiles) -> None:
    """What the backup of a killed agent has left, a program that goes on copying first."""
    for directory in (files.root, files.volume):
        for path in directory.glob(UNFINISHED + "*"):
            await fence(path)
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
