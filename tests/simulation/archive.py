"""Twins of the backup side of an engine and of the object storage, in simulated time."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mainstay.agent.repositories import Note
from mainstay.engines.backups import BackupEnd, Recovery
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.log_server import LogServer
from mainstay.host.clock import SimulatedClock
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.errors import Permanent
from mainstay.model.node import ArchiveStatus, NodeSpec, RestoreSpec
from mainstay.model.repository_job import BackupFacts, RepositoryRef
from simulation.database import Disk
from simulation.loop import Lifetime

if TYPE_CHECKING:
    from simulation.twins import Host

RESTORE_S = 0.4
RECOVERY_MARK = "recovery.signal"
SHIP_INTERVAL_S = 1.0


class SimulatedRepositories:
    """`Repositories`, as far as nodes use them: a restore lays out fresh data."""

    def __init__(self, host: Host, owner: Lifetime) -> None:
        self._host, self._owner = host, owner

    def log_archive(self, ref: RepositoryRef) -> Any:
        return None

    async def facts(self, ref: RepositoryRef, backup_id: str) -> BackupFacts | None:
        return self._host.storage.backups.get(ref.prefix, {}).get(backup_id)

    async def restore(self, restore: RestoreSpec, destination: Path, user: User, note: Note) -> None:
        await asyncio.sleep(RESTORE_S)
        storage = self._host.storage
        if storage.lost or restore.backup_id not in storage.backups.get(restore.repository.prefix, {}):
            raise Permanent(f"there is no backup {restore.backup_id}")
        if storage.keys[restore.repository.prefix] != restore.repository.data_key:
            storage.violations.append(f"another key for {restore.repository.prefix}")
        with self._host.effects.one(self._owner, "repository.restore"):
            shutil.rmtree(destination, ignore_errors=True)
            destination.mkdir()
            self._host.new_data(destination, Disk(), follows=False)
            if restore.paused:
                (destination / RECOVERY_MARK).touch()


class SimulatedBackup:
    """`OpenBackup` of a simulated engine."""

    sources: Sequence[SourceFile] = ()
    streamed_bytes = None
    from_standby = False

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock

    async def stream(self, pipe: int) -> None:
        """Never asked."""

    async def finish(self) -> BackupEnd:
        now = self._clock.wall()
        return BackupEnd(timeline="1", start_position="0", stop_position="0", consistent_at=now, extra_files=(), log=())


class SimulatedCrashCopies:
    """`CrashCopies`, as far as a restore uses them."""

    def prepare(self, data: Path, user: User) -> None:
        """Nothing to be done."""


class SimulatedBackups:
    """`EngineBackups` of a simulated engine: a restored one is at its target as soon as it has started.

    Only one that is to be looked at is `recovering` until then: nobody asks the others.
    """

    crash_copies = SimulatedCrashCopies()

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock

    def log_source(self, spec: NodeSpec, files: NodeFiles) -> Any:
        return None

    @asynccontextmanager
    async def begin(self, spec: NodeSpec, host: Any, backup_id: str, standby: Any) -> AsyncIterator[SimulatedBackup]:
        yield SimulatedBackup(self._clock)

    async def complete_copy(self, data: Path, build: Any, user: User) -> None:
        """Nothing to be done."""

    def prepare_restored(self, data: Path, user: User) -> None:
        """Nothing to be done."""

    def recovering(self, files: NodeFiles) -> bool:
        return (files.data / RECOVERY_MARK).exists()

    def recovery(self, restore: Any, files: NodeFiles, user: User, archive: Any) -> Recovery:
        """The real server of a log that nobody asks for."""
        return LogServer(files.restoring, user, lambda _name: None)


class SimulatedArchiver:
    """Promises everything up to now, once a second."""

    def __init__(self, name: str, *given: Any) -> None:
        *_others, self._clock, self._changed = given
        self.status = ArchiveStatus()

    async def finish(self) -> None:
        """Everything is stored at once here."""

    async def run(self) -> None:
        while True:
            latest = float(int(self._clock.wall()))
            position = f"0/{int(latest):X}"
            self.status = msgspec.structs.replace(
                self.status, latest_restorable_at=latest, timeline="1", position=position
            )
            self._changed()
            await asyncio.sleep(SHIP_INTERVAL_S)
