"""Snapshots that are a clone of a node's volume on this host: there at once, then stored from the clone.

The clone and what is stored of it show the same moment, file by file: whoever restores gets the same from either. A
clone stays when it is stored, for restores on this host, until its backup is not needed any more or room is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog

from mainstay.agent.keeper import Keeper
from mainstay.engines.base import EngineDriver
from mainstay.host.threads import to_its_end
from mainstay.host.volumes.clones import Clones, mounted
from mainstay.model.backup import SourceFile
from mainstay.model.errors import Permanent
from mainstay.model.repository_job import BackupFacts, RepositoryJob, RepositoryRef

DATA = "data"
"""As in `NodeFiles.data`."""

log = structlog.get_logger()


class LocalSnapshots:
    """The snapshots of this host. Everything raises `MainstayError`."""

    def __init__(self, clones: Clones) -> None:
        self._clones = clones

    def find(self, job: RepositoryJob) -> BackupFacts | None:
        """What the clone of this job is, None if there is none."""
        told = self._clones.told(job.repository.prefix, job.backup_id)
        return None if told is None else msgspec.json.decode(told, type=BackupFacts)

    async def take(self, job: RepositoryJob, keeper: Keeper) -> BackupFacts:
        """Makes the clone, which is on disk when this returns. Raises, in words, where it must be copied instead."""
        spec, hands = keeper.spec, keeper.hands
        copies = keeper.driver.backups.crash_copies
        if copies is None:
            raise Permanent(f"volumes of {spec.engine} are not cloned in this version of Mainstay")
        if spec.peer is not None:
            raise Permanent("of a Multi-AZ instance the files are read from the standby")
        if reason := await asyncio.to_thread(copies.refusal, hands.files.data):
            raise Permanent(reason)
        clone = await to_its_end(self._clones.begin, job.repository.prefix, job.backup_id, hands.volume.place.image)
        try:
            await copies.flush(spec, hands.files)
            frozen = await hands.volume.clone(clone.unfinished)
            facts = BackupFacts(
                backup_id=job.backup_id,
                engine_version=spec.engine_version,
                timeline="",
                start_position="",
                stop_position="",
                started_at=frozen.frozen_at,
                consistent_at=frozen.frozen_at,
                size_bytes=hands.volume.look().used_bytes,
                crash_consistent=True,
            )
            await to_its_end(self._clones.complete, clone, msgspec.json.encode(facts).decode())
        except BaseException:
            clone.unfinished.unlink(missing_ok=True)
            raise
        log.info("snapshot.cloned", job_id=job.job_id, frozen_s=frozen.frozen_s)
        return facts

    @asynccontextmanager
    async def opened(self, job: RepositoryJob, driver: EngineDriver) -> AsyncIterator[Sequence[SourceFile]]:
        """The files of the clone, to be stored within the block."""
        copies = driver.backups.crash_copies
        if copies is None:
            raise Permanent(f"volumes of {job.engine} are not cloned in this version of Mainstay")
        clone = self._clones.clone(job.repository.prefix, job.backup_id)
        reading = mounted(clone, job.volume_key)
        directory = await to_its_end(reading.__enter__)
        try:
            yield await asyncio.to_thread(lambda: list(copies.files(directory / DATA)))
        finally:
            await to_its_end(reading.__exit__, None, None, None)

    def note_stored(self, job: RepositoryJob) -> None:
        """It is in the object storage too."""
        self._clones.note_stored(job.repository.prefix, job.backup_id)

    async def keep_only(self, ref: RepositoryRef, backup_ids: Sequence[str]) -> None:
        """Removes the clones of all other backups of the repository."""
        await to_its_end(self._clones.keep_only, ref.prefix, tuple(backup_ids))
