"""Brings a backup repository to what is still needed of it: old backups go, and all of it when nothing needs it.

One program per repository. What is needed follows from records alone, so it may be asked for at any time by anybody.
Guarantees: what a snapshot, a copy under way, a restore under way or the restore window of automated backups needs is
never removed; nothing is removed while a backup is being made in the repository, or while it is read back, and none
is begun while something is being removed (`is_clearing`); a repository goes only after no node ships its log there
any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from mainstay.decide.restore_window import DAY_S, expired, log_needed_from
from mainstay.model.db_instance import DBInstance, RestoreFrom
from mainstay.model.db_snapshot import (
    AUTOMATED,
    AVAILABLE,
    CREATING,
    RETAINED,
    BackupRepository,
    DBInstanceAutomatedBackup,
    DBSnapshot,
)
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import Node
from mainstay.model.records import Scope
from mainstay.model.repository_job import JobKind, JobPhase, RepositoryJob
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, bring_forward, new_job
from mainstay.workflows.repositories import may_be_opened, open_repository, refers_to, without_key

LOOK_AGAIN_S = 10.0
LOCKED_AGAIN_S = 60.0
OBSERVE_AGAIN_S = 5.0
PAUSES_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
_CLEARING = frozenset({"order", "await_outcome"})
log = structlog.get_logger()


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """What must stay (as in `RepositoryJob`), and the records of automated backups that go with the rest."""

    kept_backups: tuple[str, ...]
    kept_log_from: str | None
    archive_ended: bool
    expired: tuple[DBSnapshot, ...] = ()
    ended: DBInstanceAutomatedBackup | None = None

    @property
    def nothing(self) -> bool:
        """Whether the whole repository may go."""
        return self.archive_ended and not self.kept_backups


def request_reclaim_in(tx: Transaction, now: float, scope: Scope, repository_id: str) -> None:
    """Starts the program for the repository, or brings it forward. A repository that is gone needs none."""
    repository = tx.get(BackupRepository, scope, repository_id) if repository_id else None
    if repository is None:
        return
    if tx.jobs(repository.subject):
        bring_forward(tx, repository.subject, now)
    else:
        tx.add_job(new_job(RECLAIM, repository.subject, scope, now))


def note_filled(tx: Transaction, scope: Scope, repository_id: str) -> None:
    """Something was put there: what was kept when it was last cleared says nothing any more."""
    repository = tx.get(BackupRepository, scope, repository_id)
    if repository is not None:
        tx.put(msgspec.structs.replace(repository, last_kept_backups=None))


def request_clearing_in(tx: Transaction, now: float, scope: Scope, repository_id: str) -> None:
    """As `request_reclaim_in`, where something unrecorded may have been left behind."""
    note_filled(tx, scope, repository_id)
    request_reclaim_in(tx, now, scope, repository_id)


def is_clearing(reader: Reader, repository_id: str) -> bool:
    """Whether something is being removed from the repository now."""
    return any(job.step in _CLEARING for job in reader.jobs(f"repository:{repository_id}"))


def needed(reader: Reader, repository: BackupRepository, now: float, order: Callable[[str], int]) -> Needed | None:
    """What is needed of the repository; None while a backup is being made in it. `order` orders its positions."""
    rows = reader.find(DBSnapshot, repository.scope, "repository", repository.repository_id)
    # One whose record is gone is being given up: the agent may still write.
    makes = f"snapshot:{repository.repository_id}-"
    if any(row.status == CREATING for row in rows) or any(job.subject.startswith(makes) for job in reader.jobs()):
        return None
    automated = _automated_backup(reader, repository)
    restoring = _restoring(reader, repository.repository_id)
    used = being_read(reader, repository.repository_id)
    gone = _expired(rows, automated, now, used)
    kept = [row for row in rows if row.status == AVAILABLE and row not in gone]
    ended = automated if automated is not None and _is_over(automated, now) else None
    archive_ended = automated is None or ended is not None
    replaying = any(one is not None and not one.target.immediate for one in restoring)
    log_from: str | None = None
    if not replaying:
        bases = [row.backup for row in kept if row.snapshot_type == AUTOMATED and row.backup is not None]
        log_from = "" if archive_ended else log_needed_from(bases, order)
    return Needed(
        kept_backups=tuple(sorted({row.backup_id for row in kept} | used)),
        kept_log_from=log_from,
        archive_ended=archive_ended,
        expired=tuple(gone),
        ended=ended,
    )


def being_read(reader: Reader, repository_id: str) -> set[str]:
    """The backups that something is being made of now: instances, copies."""
    copied = [one.copy_of for one in reader.find(DBSnapshot, None, "copied-from", repository_id)]
    return {one.backup_id for one in (*_restoring(reader, repository_id), *copied) if one is not None}


def _restoring(reader: Reader, repository_id: str) -> list[RestoreFrom | None]:
    return [one.restoring_from for one in reader.find(DBInstance, None, "restored-from", repository_id)]


def verifying(repository_id: str) -> str:
    """The subject of the job that verifies what is in the repository: nothing is removed meanwhile."""
    return f"verify:{repository_id}"


def _automated_backup(reader: Reader, repository: BackupRepository) -> DBInstanceAutomatedBackup | None:
    found = reader.get(DBInstanceAutomatedBackup, repository.scope, repository.dbi_resource_id)
    return found if found is not None and found.repository_id == repository.repository_id else None


def _is_over(automated: DBInstanceAutomatedBackup, now: float) -> bool:
    """Whether no moment of retained backups is within the retention period any more."""
    last = automated.latest_restorable_at or automated.last_backup_at or 0.0
    return automated.status == RETAINED and last <= now - automated.backup_retention_period_days * DAY_S


def _expired(
    rows: list[DBSnapshot], automated: DBInstanceAutomatedBackup | None, now: float, used: set[str]
) -> list[DBSnapshot]:
    own = [row for row in rows if row.snapshot_type == AUTOMATED and row.status == AVAILABLE]
    if automated is None or _is_over(automated, now):
        return own
    backups = [row.backup for row in own if row.backup is not None]
    going = expired(backups, now, automated.backup_retention_period_days) - used
    return [row for row in own if row.backup_id in going]


async def _look(work: Work) -> Outcome:
    """Nothing is awaited here: records do not change between this look and the record of what goes."""
    tools, now = work.tools, work.tools.clock.wall()
    if now < work.job.frame.get("retry_at", 0.0):
        return Sleep(work.job.frame["retry_at"] - now)
    with tools.store.read() as view:
        repository = _repository(view, work)
        if repository is None:
            return Finish()
        read_back = view.jobs(verifying(repository.repository_id))
        wanted = (
            None if read_back else needed(view, repository, now, tools.engines.rules(repository.engine).log_position)
        )
        if wanted is None or (wanted.archive_ended and _archives(work, view, repository)):
            return Sleep(LOOK_AGAIN_S)
        if not wanted.nothing and not may_be_opened(view, repository):
            return Sleep(LOCKED_AGAIN_S)  # what is there stays as it is until its key is enabled again
    if not wanted.nothing and (wanted.kept_backups, wanted.kept_log_from) == (
        repository.last_kept_backups,
        repository.last_kept_log_from,
    ):
        return Finish(lambda tx: _forget_rows(tx, wanted))

    def record(tx: Transaction) -> None:
        _forget_rows(tx, wanted)
        if wanted.nothing:
            tx.put(msgspec.structs.replace(repository, doomed=True))

    number = work.job.frame.get("number", 0) + 1
    kept = {"kept_backups": list(wanted.kept_backups), "kept_log_from": wanted.kept_log_from}
    return Next("order", record, {**kept, "number": number, "all": wanted.nothing})


def _repository(view: Reader, work: Work) -> BackupRepository | None:
    return view.get(BackupRepository, work.job.scope, work.job.subject.removeprefix("repository:"))


def _forget_rows(tx: Transaction, wanted: Needed) -> None:
    for row in wanted.expired:
        tx.delete(row)
    if wanted.ended is not None:
        tx.delete(wanted.ended)
        for job in tx.jobs(wanted.ended.subject):
            tx.finish_job(job)


def _archives(work: Work, view: Reader, repository: BackupRepository) -> bool:
    """Whether a node may still ship its log to the repository."""
    for node in view.find(Node, repository.scope, "dbi-resource-id", repository.dbi_resource_id):
        if refers_to(node.spec.archive, repository):
            return True
        seen = work.tools.fleet.observe(node.spec.node_id)
        if seen is not None and seen.settled_generation < node.spec.generation:
            return True
    return False


def _job_id(work: Work) -> str:
    return f"{work.job.subject.removeprefix('repository:')}-clear-{work.job.id}-{work.job.frame['number']}"


async def _order(work: Work) -> Outcome:
    frame = work.job.frame
    with work.tools.store.read() as view:
        repository = _repository(view, work)
        if repository is None:
            return Finish()
        if not frame["all"] and not may_be_opened(view, repository):
            raise Transient("the KMS key of the repository is not enabled", retry_after_s=LOOK_AGAIN_S)
        place = without_key(repository) if frame["all"] else open_repository(view, work.tools.vault, repository)
    job = RepositoryJob(
        job_id=_job_id(work),
        kind=JobKind.DESTROY if frame["all"] else JobKind.EXPIRE,
        subject=work.job.subject,
        engine=repository.engine,
        repository=place,
        kept_backups=tuple(frame["kept_backups"]),
        kept_log_from=frame["kept_log_from"],
    )
    await work.tools.fleet.start_job(job)
    return Next("await_outcome")


async def _await_outcome(work: Work) -> Outcome:
    status = work.tools.fleet.observe_job(_job_id(work))
    if status is None:
        return Next("order")
    if status.phase is JobPhase.RUNNING:
        return Sleep(OBSERVE_AGAIN_S)
    if status.phase is JobPhase.FAILED:
        failures = work.job.frame.get("failures", 0) + 1
        retry_at = work.tools.clock.wall() + PAUSES_S[min(failures, len(PAUSES_S)) - 1]
        log.error("repositories.not_cleared", subject=work.job.subject, error=status.failure, failures=failures)
        return Next("forget_job", frame={"failures": failures, "retry_at": retry_at})
    return Next("forget_job", lambda tx: _cleared(work, tx), {"failures": 0, "retry_at": 0.0})


def _cleared(work: Work, tx: Transaction) -> None:
    frame: dict[str, Any] = work.job.frame
    repository = _repository(tx, work)
    if repository is None:
        return
    if frame["all"]:
        tx.delete(repository)
        return
    kept = tuple(frame["kept_backups"])
    tx.put(msgspec.structs.replace(repository, last_kept_backups=kept, last_kept_log_from=frame["kept_log_from"]))


async def _forget_job(work: Work) -> Outcome:
    await work.tools.fleet.forget_job(_job_id(work))
    return Next("look")


def _failed(work: Work, error: Permanent) -> Finish:
    """The worker has logged why; the next request tries again."""
    return Finish()


def _tell_overdue(work: Work, _tx: Transaction) -> None:
    """Nobody loses anything but disk space by this."""
    log.error("repositories.late", subject=work.job.subject, step=work.job.step)


RECLAIM = Program(
    name="reclaim_repository",
    first="look",
    steps={
        "look": Step(_look, successors=("order",)),
        "order": Step(_order, successors=("await_outcome",)),
        "await_outcome": Step(_await_outcome, successors=("order", "forget_job")),
        "forget_job": Step(_forget_job, successors=("look",)),
    },
    deadline_s=DAY_S,
    failed=_failed,
    overdue=_tell_overdue,
)
