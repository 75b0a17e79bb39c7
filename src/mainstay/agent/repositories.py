"""Backup repositories as the agent uses them: the log in threads, everything heavy in a process of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol
from weakref import WeakValueDictionary

import msgspec

from mainstay.agent.backup_facts import FACTS, log_of, read_facts
from mainstay.agent.log_copy import copy_log
from mainstay.agent.verification import Verified, lost_log, plan_verification
from mainstay.backups.jobs import (
    BackupJob,
    CollectJob,
    CopyJob,
    Damage,
    Place,
    RestoreJob,
    VerifyAllJob,
    VerifyLogJob,
)
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.manifests import MANIFESTS, list_backups
from mainstay.backups.objects import Objects, object_storage, open_objects
from mainstay.backups.repository import Repository
from mainstay.backups.streams import Streaming
from mainstay.backups.worker import run_job
from mainstay.backups.write import Late
from mainstay.engines.backups import EngineBackups
from mainstay.host.processes import User
from mainstay.host.randomness import Randomness
from mainstay.host.threads import to_its_end
from mainstay.model.backup import SourceFile
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import RestoreSpec
from mainstay.model.repository_job import BackupFacts, LogPromise, RepositoryRef
from mainstay.settings import Settings

PIPE_BYTES = 1 << 20

Note = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""


class ToStore(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup stores. `streamed_bytes`: about how much comes through the pipe; None if nothing does."""

    sources: Sequence[SourceFile] = ()
    streamed_bytes: int | None = None


Begin = Callable[[int], Awaitable[ToStore]]
"""Called first, with the end of a pipe that files may be written into (`backups/streams.py`), which is closed here."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is, known when all files are stored, and what else belongs to it."""

    facts: BackupFacts
    sources: tuple[SourceFile, ...] = ()


End = Callable[[], Awaitable[Ended]]
"""Called when all files are stored."""


class Repositories(Protocol):
    """What can be done with repositories. Raises `Permanent` for damage and refusals, `Transient` for what may heal."""

    def log_archive(self, ref: RepositoryRef) -> LogArchive:
        """The log of a repository."""

    async def facts(self, ref: RepositoryRef, backup_id: str) -> BackupFacts | None:
        """What a complete backup is, None if there is none of this id."""

    async def has_backups(self, ref: RepositoryRef) -> bool:
        """Whether there is any complete backup."""

    async def back_up(self, ref: RepositoryRef, backup_id: str, begin: Begin, end: End, note: Note) -> BackupFacts:
        """Stores a backup, which is there when this returns and not before."""

    async def restore(self, restore: RestoreSpec, destination: Path, user: User, note: Note) -> None:
        """Makes the files of a backup below `destination`, checked and on disk when this returns."""

    async def copy(
        self, ref: RepositoryRef, destination: RepositoryRef, backup_id: str, backups: EngineBackups, note: Note
    ) -> BackupFacts:
        """Copies a backup and the log it needs into another repository, under its key."""

    async def copy_log(
        self, ref: RepositoryRef, destination: RepositoryRef, promised: LogPromise, backups: EngineBackups, note: Note
    ) -> None:
        """Copies this stretch of the log into another repository, under its key."""

    async def expire(
        self, ref: RepositoryRef, kept_backups: Sequence[str], kept_log_from: str | None, backups: EngineBackups
    ) -> None:
        """Removes all other backups, and the log that none of the kept ones needs and that is before the position."""

    async def destroy(self, ref: RepositoryRef) -> None:
        """Removes everything."""

    async def verify(
        self,
        ref: RepositoryRef,
        backup_ids: Sequence[str],
        promised: LogPromise | None,
        backups: EngineBackups,
        note: Note,
    ) -> Verified:
        """Reads these backups and the whole log back; what is wrong or missing.

        Nothing may be removed from the repository meanwhile.
        """


class SystemRepositories:
    """`Repositories` in the object storage of the settings.

    Within a repository nothing is written while something is removed (`collect_garbage`): each has a lock of its own.
    """

    def __init__(self, settings: Settings, randomness: Randomness) -> None:
        self._url, self._options = object_storage(settings)
        self._randomness = randomness
        self._objects: Objects | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def log_archive(self, ref: RepositoryRef) -> LogArchive:
        return LogArchive(self._open(ref))

    async def facts(self, ref: RepositoryRef, backup_id: str) -> BackupFacts | None:
        return await asyncio.to_thread(read_facts, self._open(ref), backup_id)

    async def has_backups(self, ref: RepositoryRef) -> bool:
        return bool(await asyncio.to_thread(_newest, self._open(ref)))

    async def back_up(self, ref: RepositoryRef, backup_id: str, begin: Begin, end: End, note: Note) -> BackupFacts:
        facts: BackupFacts | None = None

        async def job(reading: int, writing: BinaryIO) -> BackupJob:
            with writing:
                base = await asyncio.to_thread(_newest, self._open(ref))
                found = await begin(writing.fileno())
            size = found.streamed_bytes
            return BackupJob(
                place=self._place(ref),
                backup_id=backup_id,
                base_id=base,
                streaming=None if size is None else Streaming(descriptor=reading, size=size),
                sources=tuple(found.sources),
                ask_late=True,
            )

        async def late() -> Late:
            nonlocal facts
            ended = await end()
            facts = ended.facts
            attributes = {FACTS: msgspec.json.encode(facts).decode()}
            return Late(sources=ended.sources, attributes=attributes)

        async with self._alone(ref):
            reading, writing = _pipe()
            with writing:
                done = await run_job(partial(job, reading, writing), report=note, late=late, pipe=reading)
        if facts is None or done.summary is None:
            raise Transient("the backup ended without saying what it is")
        return msgspec.structs.replace(facts, size_bytes=done.summary.size, stored_bytes=done.summary.stored)

    async def restore(self, restore: RestoreSpec, destination: Path, user: User, note: Note) -> None:
        job = RestoreJob(
            place=self._place(restore.repository),
            backup_id=restore.backup_id,
            destination=str(destination),
            uid=user.user_id,
            gid=user.group_id,
        )
        await run_job(job, report=note)

    async def copy(
        self, ref: RepositoryRef, destination: RepositoryRef, backup_id: str, backups: EngineBackups, note: Note
    ) -> BackupFacts:
        source, target = self._open(ref), self._open(destination)
        facts = await asyncio.to_thread(read_facts, source, backup_id)
        if facts is None:
            raise Permanent(f"there is no backup {backup_id} in the repository {ref.prefix}")
        if await asyncio.to_thread(read_facts, target, backup_id) is not None:
            return facts
        async with self._alone(destination):
            await to_its_end(_copy_log, LogArchive(source), LogArchive(target), facts, backups)
            base = await asyncio.to_thread(_newest, target)
            job = CopyJob(
                source=self._place(ref),
                backup_id=backup_id,
                target=self._place(destination),
                target_id=backup_id,
                base_id=base,
            )
            done = await run_job(job, report=note)
        if done.summary is None:
            raise Transient("the copy ended without saying what it is")
        return msgspec.structs.replace(facts, size_bytes=done.summary.size, stored_bytes=done.summary.stored)

    async def copy_log(
        self, ref: RepositoryRef, destination: RepositoryRef, promised: LogPromise, backups: EngineBackups, note: Note
    ) -> None:
        source, target = LogArchive(self._open(ref)), LogArchive(self._open(destination))
        async with self._alone(destination):
            await to_its_end(copy_log, source, target, promised, backups, note)

    async def expire(
        self, ref: RepositoryRef, kept_backups: Sequence[str], kept_log_from: str | None, backups: EngineBackups
    ) -> None:
        repository = self._open(ref)
        async with self._alone(ref):
            doomed = set(await asyncio.to_thread(list_backups, repository)) - set(kept_backups)
            await run_job(CollectJob(place=self._place(ref), delete=tuple(sorted(doomed))))
            if kept_log_from is not None:
                await to_its_end(_expire_log, repository, kept_backups, kept_log_from, backups)

    async def destroy(self, ref: RepositoryRef) -> None:
        async with self._alone(ref):
            await to_its_end(_destroy, self._open(ref))

    async def verify(
        self,
        ref: RepositoryRef,
        backup_ids: Sequence[str],
        promised: LogPromise | None,
        backups: EngineBackups,
        note: Note,
    ) -> Verified:
        plan = await asyncio.to_thread(plan_verification, self._open(ref), backup_ids, promised, backups)
        place, files_bytes = self._place(ref), sum(plan.sizes.values())
        files = VerifyAllJob(place=place, backup_ids=tuple(plan.sizes), sizes=tuple(plan.sizes.values()))
        outcome = await run_job(files, report=_share(note, 0, files_bytes, plan.total_bytes))
        damages = [f"backup {one.backup_id}: {_told(one)}" for one in outcome.damages]
        log = VerifyLogJob(place=place, needed=plan.needed, small=plan.small)
        outcome = await run_job(log, report=_share(note, files_bytes, plan.log_bytes, plan.total_bytes))
        damages += [_told(one) for one in outcome.damages]
        lost = lost_log(self._open(ref), plan, {one.key for one in outcome.damages}, backups)
        note(plan.total_bytes, plan.total_bytes)
        return Verified(damages=tuple(dict.fromkeys(damages)), lost_log=lost)

    def _open(self, ref: RepositoryRef) -> Repository:
        if not ref.data_key:
            raise Transient("the key of the backup repository is awaited from the control process")
        if self._objects is None:
            self._objects = open_objects(self._url, self._options)
        return Repository(self._objects, _directory(ref), bytes.fromhex(ref.data_key), self._randomness)

    def _place(self, ref: RepositoryRef) -> Place:
        self._open(ref)
        return Place(url=self._url, prefix=_directory(ref), data_key=bytes.fromhex(ref.data_key), options=self._options)

    @asynccontextmanager
    async def _alone(self, ref: RepositoryRef) -> AsyncIterator[None]:
        lock = self._locks.setdefault(ref.prefix, asyncio.Lock())
        async with lock:
            yield


def _pipe() -> tuple[int, BinaryIO]:
    """Both ends of a pipe, as large as the kernel lets anybody make one without asking."""
    reading, writing = os.pipe()
    with suppress(OSError):  # where the user has too many pipes already it works with less
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, os.fdopen(writing, "wb", buffering=0)


def _directory(ref: RepositoryRef) -> str:
    return ref.prefix.rstrip("/") + "/"


def _newest(repository: Repository) -> str:
    """The backup that most of the next one is likely to be the same as; "" for none."""
    found = [facts for one in list_backups(repository) if (facts := read_facts(repository, one)) is not None]
    newest = max(found, key=lambda facts: facts.consistent_at, default=None)
    return "" if newest is None else newest.backup_id


def _copy_log(source: LogArchive, target: LogArchive, facts: BackupFacts, backups: EngineBackups) -> None:
    for name in source.list_small():
        content = source.read_small(name)
        if content is not None:
            target.put_small(name, content)
    for one in log_of(facts, source, backups):
        data = source.read_segment(one.segment)
        if data is None:
            raise Permanent(f"the log segment {one.name} that the backup {facts.backup_id} needs is missing")
        target.complete(one.segment, backups.whole_segment(data))


def _expire_log(repository: Repository, kept_backups: Sequence[str], kept_from: str, backups: EngineBackups) -> None:
    """An empty position keeps only what the backups need."""
    archive = LogArchive(repository)
    kept = [facts for one in kept_backups if (facts := read_facts(repository, one)) is not None]
    of_backups = {one.index for facts in kept for one in log_of(facts, archive, backups)}
    begin = backups.index_at(kept_from) if kept_from else None

    def is_needed(segment: Segment) -> bool:
        return (begin is not None and segment.index >= begin) or segment.index in of_backups

    archive.delete_segments(is_needed)


def _destroy(repository: Repository) -> None:
    """Manifests first: what is half removed is not listed."""
    objects = repository.objects
    for directory in (repository.prefix + MANIFESTS, repository.prefix):
        objects.delete([key for key, _size in objects.list(directory)])


def _share(note: Note, before: int, size: int, total: int) -> Note:
    """Progress of a part of the work as progress of all of it."""
    return lambda done, of: note(before + (size * done // of if of else 0), total)


def _told(damage: Damage) -> str:
    """Object, what is wrong with it and which files it has parts of, in a sentence."""
    whose = f" (it holds parts of {', '.join(damage.files)})" if damage.files else ""
    return f"{damage.key}: {damage.reason}{whose}"
