"""Work on backup repositories, ordered by the control plane: one task a job, known by its id until it is forgotten.

Guarantees: a backup is in the repository when its job is done and not before; ordering a job again while it is known
changes nothing, and ordering one whose backup is there already finds it. An agent that died knows no jobs: what was
under way is ordered again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext, suppress

import msgspec
import structlog

from mainstay.agent.archiver import read_range
from mainstay.agent.keeper import Keeper
from mainstay.agent.local_snapshots import LocalSnapshots
from mainstay.agent.repositories import Ended, Repositories, ToStore
from mainstay.agent.standby_source import StandbySource, standby_source
from mainstay.agent.verification import Verified
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.engines.backups import BackupEnd, EngineBackups, OpenBackup
from mainstay.engines.base import EngineDriver
from mainstay.host.clock import Clock
from mainstay.host.threads import to_its_end
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.repository_job import (
    BackupFacts,
    JobKind,
    JobPhase,
    JobStatus,
    LostLog,
    RepositoryJob,
)

RUNNING_MAX = 2
KNOWN_MAX = 10_000
TELL_INTERVAL_S = 0.5

log = structlog.get_logger()


class Jobs:
    """The jobs of this host. `tell` hears every news.

    `lead(node_id)` is the keeper that leads that node's instance, `follow(node_id)` that of its standby.
    """

    def __init__(
        self,
        repositories: Repositories,
        snapshots: LocalSnapshots,
        drivers: dict[str, EngineDriver],
        lead: Callable[[str], Keeper | None],
        follow: Callable[[str], Keeper | None],
        clock: Clock,
        tell: Callable[[JobStatus], None],
    ) -> None:
        self._repositories = repositories
        self._snapshots = snapshots
        self._drivers = drivers
        self._lead = lead
        self._follow = follow
        self._clock = clock
        self._tell = tell
        self._known: dict[str, JobStatus] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(RUNNING_MAX)
        self._told_at: dict[str, float] = {}

    def statuses(self) -> list[JobStatus]:
        """Every job that was not forgotten."""
        return list(self._known.values())

    def start(self, job: RepositoryJob) -> None:
        """Begins the job unless it is known. Raises `Permanent` for an engine that is not here."""
        if job.job_id in self._known:
            return
        if job.engine not in self._drivers:
            raise Permanent(f"there is no engine {job.engine!r} on this host")
        if len(self._known) >= KNOWN_MAX:
            raise Transient("too many jobs are known to the agent")
        self._set(JobStatus(job_id=job.job_id, subject=job.subject, phase=JobPhase.RUNNING))
        self._tasks[job.job_id] = asyncio.create_task(self._run(job))

    async def forget(self, job_id: str) -> None:
        """Ends the job if it runs and knows nothing of it any more."""
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._known.pop(job_id, None)
        self._told_at.pop(job_id, None)

    async def stop(self) -> None:
        """Ends every job."""
        for job_id in list(self._tasks):
            await self.forget(job_id)

    async def _run(self, job: RepositoryJob) -> None:
        started = self._clock.monotonic()
        try:
            await self._clone(job)  # before its turn comes: it takes a moment
            # The log must get on while backups take hours; it is little.
            async with nullcontext() if job.kind is JobKind.COPY_LOG else self._places:
                status = self._known[job.job_id]
                self._set(msgspec.structs.replace(status, started_at=self._clock.wall()))
                outcome = await self._do(job)
        except MainstayError as error:
            log.warning("job.failed", job_id=job.job_id, kind=job.kind, error=error.message)
            fatal = isinstance(error, Permanent)
            self._end(job, phase=JobPhase.FAILED, failure=f"{error.message} {error.hint}".strip(), fatal=fatal)
        except Exception as error:  # the outermost loop of a job: who ordered it must hear of its end
            log.exception("job.broke", job_id=job.job_id, kind=job.kind)
            self._end(job, phase=JobPhase.FAILED, failure=f"{type(error).__name__}: {error}")
        else:
            seconds = round(self._clock.monotonic() - started, 3)
            log.info("job.done", job_id=job.job_id, kind=job.kind, seconds=seconds)
            if isinstance(outcome, BackupFacts):
                self._end(job, phase=JobPhase.DONE, backup=outcome)
            else:
                self._end(job, phase=JobPhase.DONE, damages=outcome.damages, lost_log=outcome.lost_log)

    async def _do(self, job: RepositoryJob) -> BackupFacts | Verified:
        note = self._noting(job)
        backups = self._drivers[job.engine].backups
        match job.kind:
            case JobKind.BACKUP:
                return await self._back_up(job)
            case JobKind.COPY:
                if job.destination is None:
                    raise Permanent("a copy needs a destination")
                return await self._repositories.copy(job.repository, job.destination, job.backup_id, backups, note)
            case JobKind.COPY_LOG:
                if job.destination is None or job.promised is None:
                    raise Permanent("a copy of the log needs a destination and a stretch")
                await self._repositories.copy_log(job.repository, job.destination, job.promised, backups, note)
            case JobKind.EXPIRE:
                await self._repositories.expire(job.repository, job.kept_backups, job.kept_log_from, backups)
                await self._snapshots.keep_only(job.repository, job.kept_backups)
            case JobKind.DESTROY:
                await self._repositories.destroy(job.repository)
                await self._snapshots.keep_only(job.repository, ())
            case JobKind.VERIFY:
                return await self._repositories.verify(job.repository, job.kept_backups, job.promised, backups, note)
            case JobKind.CHECK:
                keeper = self._running(job)
                return Verified(damages=await keeper.hands.check(keeper.spec, note))
        return Verified()

    def _running(self, job: RepositoryJob) -> Keeper:
        keeper = self._lead(job.node_id)
        if keeper is None or not keeper.can_be_followed:
            raise Transient("the database does not run now", retry_after_s=1.0)
        return keeper

    async def _standby(self, leader: Keeper, job: RepositoryJob) -> StandbySource | None:
        """A standby's files may have to be waited for: not for the first backup, which a new instance waits for."""
        standby = self._follow(job.node_id) if await self._repositories.has_backups(job.repository) else None
        return None if standby is None else standby_source(leader, standby)

    async def _clone(self, job: RepositoryJob) -> None:
        """What is to be a clone is one now, if it can be, and that is told; if not, why it is copied instead."""
        if job.kind is not JobKind.BACKUP or not job.cloned:
            return
        facts = self._snapshots.find(job)
        if facts is None and job.node_id and await self._repositories.facts(job.repository, job.backup_id) is None:
            try:
                facts = await self._snapshots.take(job, self._running(job))
            except (MainstayError, OSError) as error:
                log.warning("job.copies", job_id=job.job_id, because=str(error))
                self._set(msgspec.structs.replace(self._known[job.job_id], copied_because=str(error)))
        if facts is not None:
            self._set(msgspec.structs.replace(self._known[job.job_id], local=facts))

    async def _store_clone(self, job: RepositoryJob, facts: BackupFacts) -> BackupFacts:
        """What is restored from the object storage is what the clone shows."""

        async def end() -> Ended:
            return Ended(facts=facts)

        async with self._snapshots.opened(job, self._drivers[job.engine]) as sources:

            async def begin(_pipe: int) -> ToStore:
                return ToStore(sources=sources)

            note = self._noting(job)
            stored = await self._repositories.back_up(job.repository, job.backup_id, begin, end, note)
        self._snapshots.note_stored(job)
        return stored

    async def _back_up(self, job: RepositoryJob) -> BackupFacts:
        """Files, then the log that makes them consistent, then the manifest: nothing listed is missing."""
        found = await self._repositories.facts(job.repository, job.backup_id)
        if found is not None:
            self._snapshots.note_stored(job)
            return found
        cloned = self._known[job.job_id].local
        if cloned is not None:
            return await self._store_clone(job, cloned)
        if not job.node_id:
            raise Permanent("the clone that was to be stored is not there any more")
        keeper = self._running(job)
        spec, driver, host = keeper.spec, keeper.driver, keeper.hands.backup_host(keeper.spec)
        started_at = self._clock.wall()
        standby, archive = await self._standby(keeper, job), self._repositories.log_archive(job.repository)
        shipped = spec.archive is not None and spec.archive.prefix == job.repository.prefix
        async with AsyncExitStack() as stack:
            opened: OpenBackup

            async def begin(pipe: int) -> ToStore:
                nonlocal opened
                opened = await stack.enter_async_context(driver.backups.begin(spec, host, job.backup_id, standby))
                log.info("job.reads", job_id=job.job_id, from_standby=opened.from_standby)
                if opened.streamed_bytes is not None:
                    await opened.stream(pipe)
                return ToStore(sources=opened.sources, streamed_bytes=opened.streamed_bytes)

            async def end() -> Ended:
                ended = await opened.finish()
                await to_its_end(store_log, archive, ended, driver.backups, without_hole=shipped)
                facts = BackupFacts(
                    backup_id=job.backup_id,
                    engine_version=spec.engine_version,
                    timeline=ended.timeline,
                    start_position=ended.start_position,
                    stop_position=ended.stop_position,
                    started_at=started_at,
                    consistent_at=ended.consistent_at,
                    from_standby=opened.from_standby,
                )
                return Ended(facts=facts, sources=ended.extra_files)

            return await self._repositories.back_up(job.repository, job.backup_id, begin, end, self._noting(job))

    def _noting(self, job: RepositoryJob) -> Callable[[int, int], None]:
        def note(bytes_done: int, bytes_total: int) -> None:
            status = self._known.get(job.job_id)
            if status is not None and status.phase is JobPhase.RUNNING:
                self._known[job.job_id] = msgspec.structs.replace(
                    status, bytes_done=bytes_done, bytes_total=bytes_total
                )
                now = self._clock.monotonic()
                if now - self._told_at.get(job.job_id, 0.0) >= TELL_INTERVAL_S:
                    self._told_at[job.job_id] = now
                    self._tell(self._known[job.job_id])

        return note

    def _end(
        self,
        job: RepositoryJob,
        *,
        phase: JobPhase,
        backup: BackupFacts | None = None,
        damages: tuple[str, ...] = (),
        lost_log: tuple[LostLog, ...] = (),
        failure: str = "",
        fatal: bool = False,
    ) -> None:
        self._tasks.pop(job.job_id, None)
        status = self._known.get(job.job_id)
        if status is not None:
            self._set(
                msgspec.structs.replace(
                    status, phase=phase, backup=backup, damages=damages, lost_log=lost_log, failure=failure, fatal=fatal
                )
            )

    def _set(self, status: JobStatus) -> None:
        self._known[status.job_id] = status
        self._tell(status)


def store_log(archive: LogArchive, end: BackupEnd, backups: EngineBackups, *, without_hole: bool) -> None:
    """Stores the log of a backup. An archiver may be storing the same segments meanwhile: both store the same.

    `without_hole`: also what an archiver has not shipped yet before them. If it died now, its successor would go on
    behind the newest segment of the archive.
    """
    stored = archive.segments(end.timeline)
    whole = {one.segment for one in stored if one.whole}
    wanted = {Segment(one.timeline, backups.index_of(one.segment), one.segment): (one.path, one.end) for one in end.log}
    before = [one.segment for one in stored if wanted and one.segment < min(wanted)]
    if before and without_hole:
        newest, count = before[-1], min(wanted).index - before[-1].index - 1
        beside, _end = wanted[min(wanted)]
        for name in (newest.name, *backups.segments_after(newest.name, count)):
            path = beside.with_name(name)
            if path.exists():
                wanted[Segment(end.timeline, backups.index_of(name), name)] = (path, path.stat().st_size)
    for segment in sorted(wanted.keys() - whole):
        path, length = wanted[segment]
        archive.complete(segment, read_range(path, 0, length))
