"""The object storage and an agent's repository jobs, in simulated time.

What is stored outlives every process (`Storage`, on the host); a job's outcome is kept until it is forgotten, as the
agent keeps it on disk. Each begin, end and forgetting is an effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import msgspec

from mainstay.model.errors import Transient
from mainstay.model.repository_job import BackupFacts, JobKind, JobPhase, JobStatus, RepositoryJob
from simulation.loop import Lifetime

if TYPE_CHECKING:
    from simulation.twins import Host

JOB_S = 0.3


class Storage:
    """Repositories by prefix: their keys and backups. Jobs with their outcomes, as an agent keeps them on disk."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.backups: dict[str, dict[str, BackupFacts]] = {}
        self.clones: dict[str, dict[str, BackupFacts]] = {}
        """What is on the host alone; kept as an agent keeps it."""
        self.kept_log_from: dict[str, str | None] = {}
        self.jobs: dict[str, tuple[RepositoryJob, JobStatus]] = {}
        self.failures: list[JobStatus] = []
        """What the next jobs come to, instead of being done; `job_id` and `subject` are filled in."""
        self.violations: list[str] = []
        self.lost = False
        """Nothing can be restored any more."""

    def copy(self) -> Storage:
        return deepcopy(self)


class JobRunner:
    """The jobs of one agent process; those its predecessor began go on."""

    def __init__(self, host: Host, owner: Lifetime, report: Callable[[JobStatus], None]) -> None:
        self._host, self._owner, self._report = host, owner, report
        self._storage = host.storage

    def resume(self) -> None:
        """Goes on with what was not ended."""
        for job, status in list(self._storage.jobs.values()):
            if status.phase is JobPhase.RUNNING:
                self._owner.run(self._run(job))

    def statuses(self) -> list[JobStatus]:
        return [status for _job, status in self._storage.jobs.values()]

    def start(self, job: RepositoryJob) -> None:
        if job.job_id in self._storage.jobs:
            return
        with self._host.effects.one(self._owner, "jobs.accept"):
            status = JobStatus(job_id=job.job_id, subject=job.subject, phase=JobPhase.RUNNING, bytes_total=100)
            self._storage.jobs[job.job_id] = (job, status)
            self._begin(job)
            self._report(status)
            self._owner.run(self._run(job))

    def forget(self, job_id: str) -> None:
        with self._host.effects.one(self._owner, "jobs.forget"):
            self._storage.jobs.pop(job_id, None)

    def _begin(self, job: RepositoryJob) -> None:
        """What must hold when a job is accepted."""
        clears = {JobKind.EXPIRE, JobKind.DESTROY}
        for other, status in self._storage.jobs.values():
            if other.job_id == job.job_id or status.phase is not JobPhase.RUNNING:
                continue
            places = {other.repository.prefix} & {job.repository.prefix}
            if places and (job.kind in clears) != (other.kind in clears):
                self._storage.violations.append(f"{job.kind} meets {other.kind} in {job.repository.prefix}")

    def _clone(self, job: RepositoryJob) -> None:
        """What is to be a clone is there, and told, before it is stored."""
        clones = self._storage.clones.setdefault(job.repository.prefix, {})
        if job.backup_id not in clones and job.node_id in self._host.engines:
            clones[job.backup_id] = msgspec.structs.replace(
                self._facts(job.backup_id), crash_consistent=True, start_position="", stop_position="", timeline=""
            )
        status = self._storage.jobs[job.job_id][1]
        self._storage.jobs[job.job_id] = (job, msgspec.structs.replace(status, local=clones.get(job.backup_id)))
        self._report(self._storage.jobs[job.job_id][1])

    async def _run(self, job: RepositoryJob) -> None:
        await asyncio.sleep(JOB_S)
        if job.kind is JobKind.BACKUP and job.cloned and job.job_id in self._storage.jobs:
            with self._host.effects.one(self._owner, "jobs.clone"):
                self._clone(job)
            await asyncio.sleep(JOB_S)
        while job.job_id in self._storage.jobs:
            with suppress(Transient):  # what fails in passing is tried again; a job that failed says so in `failures`
                with self._host.effects.one(self._owner, f"jobs.{job.kind}"):
                    status = self._outcome(job)
                    self._storage.jobs[job.job_id] = (job, status)
                self._report(status)
                return
            await asyncio.sleep(JOB_S)

    def _outcome(self, job: RepositoryJob) -> JobStatus:
        storage = self._storage
        if storage.failures:
            failure = storage.failures.pop(0)
            local = storage.jobs[job.job_id][1].local
            return msgspec.structs.replace(failure, job_id=job.job_id, subject=job.subject, local=local)
        if job.kind is JobKind.CHECK:  # which opens no repository
            return JobStatus(job_id=job.job_id, subject=job.subject, phase=JobPhase.DONE)
        done: dict[str, Any] = {"job_id": job.job_id, "subject": job.subject, "phase": JobPhase.DONE}
        for ref in (job.repository, job.destination):
            if job.kind is JobKind.DESTROY:
                break  # needs no key, and comes also when it is lost
            if ref is not None and storage.keys.setdefault(ref.prefix, ref.data_key) != ref.data_key:
                storage.violations.append(f"another key for {ref.prefix}")
        backups = storage.backups.setdefault(job.repository.prefix, {})
        local = storage.clones.get(job.repository.prefix, {}).get(job.backup_id) if job.cloned else None
        if job.kind is JobKind.BACKUP and local is not None:
            backups[job.backup_id] = local
            return JobStatus(**done, backup=local, local=local)
        if job.kind is JobKind.BACKUP:
            if not job.node_id:
                return JobStatus(**(done | {"phase": JobPhase.FAILED}), failure="the clone is gone", fatal=True)
            if job.node_id not in self._host.engines:
                return JobStatus(**(done | {"phase": JobPhase.FAILED}), failure="the engine does not run")
            backups[job.backup_id] = self._facts(job.backup_id)
            return JobStatus(**done, backup=backups[job.backup_id])
        if job.kind is JobKind.COPY and job.destination is not None:
            storage.backups.setdefault(job.destination.prefix, {})[job.backup_id] = backups[job.backup_id]
            return JobStatus(**done, backup=backups[job.backup_id])
        if job.kind is JobKind.EXPIRE:
            storage.backups[job.repository.prefix] = {name: backups[name] for name in job.kept_backups}
            storage.kept_log_from[job.repository.prefix] = job.kept_log_from
            clones = storage.clones.get(job.repository.prefix, {})
            storage.clones[job.repository.prefix] = {one: clones[one] for one in clones if one in job.kept_backups}
        elif job.kind is JobKind.DESTROY:
            of_repositories: tuple[dict[str, Any], ...] = (
                storage.backups, storage.keys, storage.kept_log_from, storage.clones
            )  # fmt: skip
            for kept in of_repositories:
                kept.pop(job.repository.prefix, None)
        return JobStatus(**done)

    def _facts(self, backup_id: str) -> BackupFacts:
        now = round(self._host.clock.wall(), 3)  # as fine as the API shows it
        return BackupFacts(
            backup_id=backup_id, engine_version="17.5", timeline="1", start_position=f"0/{int(now):X}",
            stop_position=f"0/{int(now) + 1:X}", started_at=now - JOB_S, consistent_at=now, size_bytes=100,
            stored_bytes=50,
        )  # fmt: skip
