"""The automated backups of one instance: recorded when they begin, taken daily, and what becomes of them at the end.

The timer (one job per instance that has them) takes the first backup as soon as the instance can, then one a day at a
random moment of the backup window, and one at once when the log has a gap that no backup has healed. One that could
not be taken in time is taken as soon as it can be. Source: RDS user guide, "Working with backups".
"""

from __future__ import annotations

import time

import msgspec

from mainstay.decide.log_loss import marked
from mainstay.decide.restore_window import DAY_S, Gap
from mainstay.decide.windows import moment_inside, parse_backup_window
from mainstay.engines.base import EngineRules, Feature
from mainstay.host.clock import Clock
from mainstay.host.randomness import Randomness
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import (
    AUTOMATED,
    AVAILABLE,
    CREATING,
    RETAINED,
    BackupRepository,
    DBInstanceAutomatedBackup,
    DBSnapshot,
    LogMark,
)
from mainstay.model.errors import Permanent
from mainstay.model.node import ArchiveStatus, NodeTarget
from mainstay.services.rds.events import record_event
from mainstay.services.rds.restore_test_request import is_due, is_untold, request_restore_test_in
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, bring_forward, new_job
from mainstay.workflows.make_db_snapshot import begin_snapshot, new_backup_id, running_leader, snapshot_of
from mainstay.workflows.reclaim_repository import request_reclaim_in
from mainstay.workflows.repositories import Makings, facts_of, new_repository

PROGRAM = "automated_backups"
LOOK_AGAIN_S = 30.0
MADE_AGAIN_S = 60.0
RETAINED_AGAIN_S = 3600.0
LATE_AFTER_S = 6 * 3600.0
BACKING_UP_S = 600.0
PAUSES_S = (60.0, 300.0, 900.0, 3600.0)
ID_CHARACTERS = 26
ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
DRAW = 1 << 30


def backup_record(reader: Reader, instance: DBInstance) -> DBInstanceAutomatedBackup | None:
    """The record of the instance's automated backups, None if it has none."""
    return reader.get(DBInstanceAutomatedBackup, instance.scope, instance.dbi_resource_id)


def automated_snapshots(reader: Reader, backup: DBInstanceAutomatedBackup) -> list[DBSnapshot]:
    """Those that the record promises something by."""
    rows = reader.find(DBSnapshot, backup.scope, "repository", backup.repository_id)
    return [row for row in rows if row.snapshot_type == AUTOMATED]


def begin_automated_backups(tx: Transaction, makings: Makings, instance: DBInstance) -> DBInstance:
    """Records that automated backups are to be taken, into a repository of their own; the instance naming it.

    A fresh one each time, so that no log of an earlier time stands before a gap. The first backup is taken when
    `start_first_backup` finds the instance running.
    """
    repository = new_repository(
        tx, makings, instance.scope, instance.dbi_resource_id, instance.engine, instance.kms_key_id
    )
    tx.insert(
        DBInstanceAutomatedBackup(
            scope=instance.scope,
            facts=facts_of(instance),
            automated_backup_id="ab-" + makings.randomness.text(ID_CHARACTERS, ID_ALPHABET),
            repository_id=repository.repository_id,
            backup_retention_period_days=instance.backup_retention_period_days,
        )
    )
    return msgspec.structs.replace(instance, repository_id=repository.repository_id)


def backed_up_when_promoted(rules: EngineRules, instance: DBInstance) -> bool:
    """Whether the instance's backups begin when it is promoted: a read replica's, of an engine where nobody keeps the
    log of those.
    """
    return instance.source_dbi_resource_id != "" and Feature.REPLICA_LOGS not in rules.features


def start_first_backup(work: Work, tx: Transaction, instance: DBInstance) -> DBInstance:
    """Starts the timer of an instance whose automated backups have not begun; it is `backing-up` then, as on RDS."""
    backup, now = backup_record(tx, instance), work.tools.clock.wall()
    if backup is None or tx.jobs(backup.subject):
        return instance
    if backed_up_when_promoted(work.tools.engines.rules(instance.engine), instance):
        return instance
    tx.put(msgspec.structs.replace(backup, facts=facts_of(instance), next_backup_at=now))
    tx.add_job(new_job(AUTOMATED_BACKUPS, backup.subject, instance.scope, now))
    return msgspec.structs.replace(instance, change="backing-up") if not instance.change else instance


def back_up_soon(work: Work, tx: Transaction, instance: DBInstance) -> DBInstance:
    """A backup is due at once: the history of the instance's log has branched (it was promoted)."""
    backup, now = backup_record(tx, instance), work.tools.clock.wall()
    if backup is None or not tx.jobs(backup.subject):
        return start_first_backup(work, tx, instance)
    tx.put(msgspec.structs.replace(backup, next_backup_at=now))
    bring_forward(tx, backup.subject, now)
    return instance


def reschedule(tx: Transaction, randomness: Randomness, now: float, instance: DBInstance) -> None:
    """The backup window or the retention period has changed: the timer and the record follow."""
    backup = backup_record(tx, instance)
    if backup is None:
        return
    moved = backup.facts.preferred_backup_window != instance.preferred_backup_window
    days = instance.backup_retention_period_days
    next_at = _next_at(randomness, instance, now) if moved and backup.last_backup_at else backup.next_backup_at
    tx.put(
        msgspec.structs.replace(
            backup, facts=facts_of(instance), backup_retention_period_days=days, next_backup_at=next_at
        )
    )
    bring_forward(tx, backup.subject, now)
    if days < backup.backup_retention_period_days:
        request_reclaim_in(tx, now, instance.scope, backup.repository_id)


def end_automated_backups(tx: Transaction, now: float, backup: DBInstanceAutomatedBackup) -> None:
    """All of them go at once, whatever their age; manual snapshots stay."""
    for row in automated_snapshots(tx, backup):
        tx.delete(row)
    for job in tx.jobs(backup.subject):
        tx.finish_job(job)
    tx.delete(backup)
    request_reclaim_in(tx, now, backup.scope, backup.repository_id)


def retain_automated_backups(tx: Transaction, now: float, backup: DBInstanceAutomatedBackup) -> None:
    """The instance is gone, they stay until the retention period is over. Without any backup there is nothing to keep.

    One that was being taken cannot be completed any more.
    """
    rows = automated_snapshots(tx, backup)
    if all(row.status != AVAILABLE for row in rows):
        end_automated_backups(tx, now, backup)
        return
    for row in rows:
        if row.status != AVAILABLE:
            tx.delete(row)
    tx.put(msgspec.structs.replace(backup, status=RETAINED, retained_since=now, next_backup_at=None))
    bring_forward(tx, backup.subject, now)


def gap_of(backup: DBInstanceAutomatedBackup, gap_at: float = 0.0) -> Gap:
    """The newest gap of the log, with one that the agent has told of; one that no backup has healed goes on."""
    if gap_at <= backup.gap_at:
        return Gap(since=backup.gap_since or backup.gap_at, until=backup.gap_at)
    since = backup.gap_since or backup.gap_at
    return Gap(since=since if backup.gap_at and backup.gap_open else gap_at, until=gap_at)


def note_gap(tx: Transaction, backup: DBInstanceAutomatedBackup, gap: Gap, now: float) -> bool:
    """Records a gap of the log and has the timer look at once; False if it takes no more than the one there is."""
    known = gap_of(backup)
    if known.until and backup.gap_open:
        joined = Gap(since=min(gap.since, known.since), until=max(gap.until, known.until))
    else:
        joined = gap if gap.until > known.until else known
    if joined == known:
        return False
    tx.put(msgspec.structs.replace(backup, gap_at=joined.until, gap_since=joined.since))
    bring_forward(tx, backup.subject, now)
    return True


def note_archive(tx: Transaction, backup: DBInstanceAutomatedBackup, archive: ArchiveStatus, now: float) -> None:
    """Records how far the log was seen to be kept; a gap makes the timer look at once."""
    latest = archive.latest_restorable_at or backup.latest_restorable_at
    gap, marks = gap_of(backup, archive.gap_at), backup.log_marks
    if archive.position and archive.latest_restorable_at:
        marks = marked(marks, LogMark(archive.latest_restorable_at, archive.position))
    tx.put(
        msgspec.structs.replace(
            backup, latest_restorable_at=latest, timeline=archive.timeline or backup.timeline,
            gap_at=gap.until, gap_since=gap.since, log_marks=marks,
            position=archive.position or backup.position, archive_recorded_at=now,
        )
    )  # fmt: skip
    if gap.until > backup.gap_at:
        bring_forward(tx, backup.subject, now)


def snapshot_identifier(instance: DBInstance, now: float) -> str:
    """`rds:<instance>-YYYY-MM-DD-HH-MM`, in UTC."""
    return f"rds:{instance.db_instance_identifier}-{time.strftime('%Y-%m-%d-%H-%M', time.gmtime(now))}"


def _next_at(randomness: Randomness, instance: DBInstance, now: float) -> float:
    window = parse_backup_window(instance.preferred_backup_window)
    return moment_inside(window, now, randomness.below(DRAW))


def _of(reader: Reader, work: Work) -> tuple[DBInstanceAutomatedBackup | None, DBInstance | None]:
    dbi_resource_id = work.job.subject.removeprefix("backup:")
    found = reader.find(DBInstance, work.job.scope, "dbi-resource-id", dbi_resource_id)
    backup = reader.get(DBInstanceAutomatedBackup, work.job.scope, dbi_resource_id)
    return backup, found[0] if found else None


async def _await_time(work: Work) -> Outcome:
    tools, now, frame = work.tools, work.tools.clock.wall(), work.job.frame
    with tools.store.read() as view:
        backup, instance = _of(view, work)
        if backup is None:
            return Finish()
        repository = view.get(BackupRepository, backup.scope, backup.repository_id)
    if backup.status == RETAINED:
        return Next("expire_retained")
    if instance is None:
        return Sleep(LOOK_AGAIN_S)
    if repository is not None and is_untold(repository, now, tools.settings.restore_test_interval_days):
        return Next("await_time", lambda tx: _tell_unproven(work, tx))
    due_at = now if backup.gap_open and backup.last_backup_at else backup.next_backup_at or now
    due_at = max(due_at, frame.get("retry_at", 0.0))
    if now < due_at:
        return Sleep(due_at - now)
    if backed_up_when_promoted(tools.engines.rules(instance.engine), instance):
        return Sleep(MADE_AGAIN_S)
    if not _ready(work, instance):
        return _not_ready(work, instance, now - due_at)
    identifier, backup_id = snapshot_identifier(instance, now), new_backup_id(tools.randomness, now)
    with tools.store.read() as view:
        if view.get(DBSnapshot, instance.scope, identifier) is not None:
            return Sleep(60.0 - now % 60.0)

    def record(tx: Transaction) -> None:
        tags = instance.tags if instance.copy_tags_to_snapshot else {}
        begin_snapshot(tx, tools.clock, instance, identifier, backup_id, snapshot_type=AUTOMATED, tags=tags)

    return Next("await_backup", record, {"db_snapshot_identifier": identifier, "backup_id": backup_id})


def _ready(work: Work, instance: DBInstance) -> bool:
    """Whether nothing else is done to the instance, and it runs."""
    return instance.change in ("", "backing-up") and running_leader(work, instance) is not None


def _not_ready(work: Work, instance: DBInstance, late_s: float) -> Outcome:
    """What cannot be backed up is not called `backing-up` for long, and a person hears of a backup that is late."""
    clock = work.tools.clock
    if instance.change == "backing-up" and late_s > BACKING_UP_S:
        return Next("await_time", lambda tx: tx.put(msgspec.structs.replace(instance, change="")))
    if instance.target is NodeTarget.RUNNING and late_s > LATE_AFTER_S and not work.job.frame.get("told_late"):
        return Next("await_time", lambda tx: _tell_late(tx, clock, instance), {"told_late": True})
    return Sleep(LOOK_AGAIN_S)


def _tell_unproven(work: Work, tx: Transaction) -> None:
    """Once in the interval of restore tests."""
    now, days = work.tools.clock.wall(), work.tools.settings.restore_test_interval_days
    backup, instance = _of(tx, work)
    repository = None if backup is None else tx.get(BackupRepository, backup.scope, backup.repository_id)
    if repository is None or instance is None or not is_untold(repository, now, days):
        return
    tx.put(msgspec.structs.replace(repository, overdue_told_at=now))
    since = (now - (repository.restore_proven_at or repository.created_at)) / DAY_S
    reason = (
        f"No restore test of the backups of this DB instance was good for {since:.0f} days; every {days} days there"
        " should be one. `mainstay backups restore-test` makes one now."
    )
    record_event(tx, work.tools.clock, instance, "MAINSTAY-EVENT-0005", reason=reason)


def _tell_late(tx: Transaction, clock: Clock, instance: DBInstance) -> None:
    reason = "The automated backup of this DB instance is late: it is not available."
    record_event(tx, clock, instance, "RDS-EVENT-0044", reason=reason)


async def _await_backup(work: Work) -> Outcome:
    tools, now = work.tools, work.tools.clock.wall()
    with tools.store.read() as view:
        backup, instance = _of(view, work)
        row = snapshot_of(view, work)
    if backup is None:
        return Finish()
    if instance is None:
        return Next("await_time")
    if row is not None and row.status == CREATING:
        return Sleep(MADE_AGAIN_S)
    if row is not None and row.status == AVAILABLE:
        return Next("await_time", lambda tx: _done(work, tx), {"failures": 0, "retry_at": 0.0, "told_late": False})
    failures = work.job.frame.get("failures", 0) + 1
    retry_at = now + PAUSES_S[min(failures, len(PAUSES_S)) - 1]
    return Next(
        "await_time", lambda tx: _not_done(work, tx, row, failures), {"failures": failures, "retry_at": retry_at}
    )


def _done(work: Work, tx: Transaction) -> None:
    now = work.tools.clock.wall()
    backup, instance = _of(tx, work)
    if backup is None or instance is None:
        return
    tx.put(msgspec.structs.replace(backup, next_backup_at=_next_at(work.tools.randomness, instance, now)))
    request_reclaim_in(tx, now, backup.scope, backup.repository_id)
    repository = tx.get(BackupRepository, backup.scope, backup.repository_id)
    if repository is not None and is_due(repository, now, work.tools.settings.restore_test_interval_days):
        request_restore_test_in(tx, now, backup)


def _not_done(work: Work, tx: Transaction, row: DBSnapshot | None, failures: int) -> None:
    """Nobody but the event tells of a failed one; it is tried again."""
    _backup, instance = _of(tx, work)
    if row is not None:
        tx.delete(row)
    if instance is not None and row is not None and failures == 1:
        reason = f"The automated backup of this DB instance failed and is tried again: {row.failure}"
        record_event(tx, work.tools.clock, instance, "RDS-EVENT-0044", reason=reason)


async def _expire_retained(work: Work) -> Outcome:
    now = work.tools.clock.wall()
    with work.tools.store.read() as view:
        backup, _instance = _of(view, work)
    if backup is None:
        return Finish()
    if now < work.job.frame.get("look_at", 0.0):
        return Sleep(work.job.frame["look_at"] - now)

    def record(tx: Transaction) -> None:
        request_reclaim_in(tx, now, backup.scope, backup.repository_id)

    return Next("expire_retained", record, {"look_at": now + RETAINED_AGAIN_S})


def _failed(work: Work, error: Permanent) -> Finish:
    """Only an invariant that does not hold leads here: a person must know that no backup will be taken."""

    def record(tx: Transaction) -> None:
        _backup, instance = _of(tx, work)
        if instance is not None:
            reason = f"No more automated backups are taken of this DB instance: {error.message}"
            record_event(tx, work.tools.clock, instance, "RDS-EVENT-0044", reason=reason)

    return Finish(record)


def _never_late(_work: Work, _tx: Transaction) -> None:
    """A timer waits as long as it is told to; late backups are told of by its steps."""


AUTOMATED_BACKUPS = Program(
    name=PROGRAM,
    first="await_time",
    steps={
        "await_time": Step(_await_time, successors=("await_time", "await_backup", "expire_retained")),
        "await_backup": Step(_await_backup, successors=("await_time",)),
        "expire_retained": Step(_expire_retained, successors=("expire_retained",)),
    },
    deadline_s=30 * DAY_S,
    failed=_failed,
    overdue=_never_late,
)
