"""Automated backups that follow those of an instance in another region: its newest backup, then its log.

What is promised of the copy is what its source promised when a stretch of the log was ordered that is there by now. A
stretch goes on where the last one ended. If the source has not got it any more, a later backup begins a new window.
When the source ends, or replication is stopped, the copy is retained for its own retention period.
Source: RDS user guide, "Replicating automated backups to another AWS Region".
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from mainstay.decide.restore_window import Gap
from mainstay.host.randomness import Randomness
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import (
    AUTOMATED,
    AVAILABLE,
    CREATING,
    PENDING,
    REPLICATING,
    RETAINED,
    DBInstanceAutomatedBackup,
    DBSnapshot,
    InstanceFacts,
)
from mainstay.model.errors import Permanent
from mainstay.model.records import Scope
from mainstay.model.repository_job import BackupFacts, JobKind, JobPhase, LogPromise, RepositoryJob
from mainstay.services.rds.promises import complete_backups, promise_of
from mainstay.store import Reader, Transaction
from mainstay.workflows.automated_backups import (
    ID_ALPHABET,
    ID_CHARACTERS,
    automated_snapshots,
    note_gap,
    retain_automated_backups,
)
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, bring_forward, new_job
from mainstay.workflows.fleet import last_seen_leader
from mainstay.workflows.make_db_snapshot import begin_copy
from mainstay.workflows.reclaim_repository import is_clearing, request_reclaim_in
from mainstay.workflows.repositories import Makings, new_repository, open_repository, require_repository

EVERY_S = 20.0
OBSERVE_AGAIN_S = 2.0
RETAINED_AGAIN_S = 3600.0
PAUSES_S = (10.0, 60.0, 300.0, 900.0)
DAY_S = 24 * 3600.0
NOTHING_ORDERED = {"job_id": "", "start": "", "position": "", "timeline": "", "latest_at": 0.0, "failed": ""}
log = structlog.get_logger()


def begin_replication(
    tx: Transaction, makings: Makings, scope: Scope, source: DBInstanceAutomatedBackup, days: int, kms_key_id: str
) -> DBInstanceAutomatedBackup:
    """Records that this scope is to have a copy, `pending`, and starts the program; one that was retained goes on."""
    known = tx.get(DBInstanceAutomatedBackup, scope, source.facts.dbi_resource_id)
    if known is not None and known.facts.kms_key_id == kms_key_id:
        status = REPLICATING if known.latest_restorable_at else PENDING
        copy = msgspec.structs.replace(
            known, status=status, backup_retention_period_days=days, retained_since=None, copy_failure=""
        )
        tx.put(copy)
        for job in tx.jobs(copy.subject):
            tx.finish_job(job)
    else:
        copy = _new_copy(tx, makings, scope, source, days, kms_key_id)
    tx.add_job(new_job(REPLICATE_BACKUPS, copy.subject, scope, makings.now))
    return copy


def _new_copy(
    tx: Transaction, makings: Makings, scope: Scope, source: DBInstanceAutomatedBackup, days: int, kms_key_id: str
) -> DBInstanceAutomatedBackup:
    facts = _facts(source.facts, kms_key_id)
    repository = new_repository(tx, makings, scope, facts.dbi_resource_id, facts.engine, kms_key_id)
    copy = DBInstanceAutomatedBackup(
        scope=scope,
        facts=facts,
        automated_backup_id=_new_id(makings.randomness),
        repository_id=repository.repository_id,
        status=PENDING,
        backup_retention_period_days=days,
        copy_of=source.scope,
    )
    tx.insert(copy)
    return copy


def _new_id(randomness: Randomness) -> str:
    return "ab-" + randomness.text(ID_CHARACTERS, ID_ALPHABET)


def _facts(facts: InstanceFacts, kms_key_id: str) -> InstanceFacts:
    """Under the key of the copy's own region."""
    return msgspec.structs.replace(facts, storage_encrypted=bool(kms_key_id), kms_key_id=kms_key_id)


def copies_of(reader: Reader, dbi_resource_id: str) -> list[DBInstanceAutomatedBackup]:
    """The copies that follow an instance's backups now."""
    found = reader.find(DBInstanceAutomatedBackup, None, "copy-of", dbi_resource_id)
    return [one for one in found if one.status != RETAINED]


def stop_replication(tx: Transaction, now: float, copy: DBInstanceAutomatedBackup) -> DBInstanceAutomatedBackup:
    """The copy is retained; one that has nothing yet goes."""
    for row in automated_snapshots(tx, copy):
        if row.status == CREATING:
            tx.delete(row)
            bring_forward(tx, row.subject, now)
    retain_automated_backups(tx, now, copy)
    return msgspec.structs.replace(copy, status=RETAINED, retained_since=now)


def _copy_of(reader: Reader, work: Work) -> DBInstanceAutomatedBackup | None:
    name = work.job.subject.removeprefix("backup-copy:")
    found = reader.find(DBInstanceAutomatedBackup, work.job.scope, "automated-backup-id", name)
    return found[0] if found else None


def _source_of(reader: Reader, copy: DBInstanceAutomatedBackup) -> DBInstanceAutomatedBackup | None:
    scope = copy.copy_of or copy.scope
    return reader.get(DBInstanceAutomatedBackup, scope, copy.facts.dbi_resource_id)


async def _await_time(work: Work) -> Outcome:
    tools, now = work.tools, work.tools.clock.wall()
    with tools.store.read() as view:
        copy = _copy_of(view, work)
        if copy is None:
            return Finish()
        source = _source_of(view, copy)
        if copy.status == RETAINED:
            return Next("expire_retained")
        if now < work.job.frame.get("retry_at", 0.0):
            return Sleep(work.job.frame["retry_at"] - now)
        if source is None:
            return Next("await_time", lambda tx: _retain(work, tx))
        newer = _newer_backup(view, source, copy)
        stretch = None if newer is not None else _stretch(work, view, source, copy)
        clearing = is_clearing(view, copy.repository_id)
    if newer is not None and not clearing:
        return Next("await_backup", lambda tx: _begin_backup(work, tx, newer), {"backup_id": newer.backup_id})
    if stretch is not None:
        number = work.job.frame.get("number", 0) + 1
        job_id = f"{copy.repository_id}-log-{work.job.id}-{number}"
        return Next("order_log", frame=stretch | {"number": number, "job_id": job_id})
    if source.status == RETAINED and newer is None:
        return Next("await_time", lambda tx: _retain(work, tx))
    return Sleep(EVERY_S)


def _newer_backup(
    view: Reader, source: DBInstanceAutomatedBackup, copy: DBInstanceAutomatedBackup
) -> DBSnapshot | None:
    """The source's newest, if the copy has none as new."""
    rows = [row for row in automated_snapshots(view, source) if row.status == AVAILABLE and row.backup is not None]
    newest = max(rows, key=lambda row: _consistent_at(row.backup), default=None)
    latest = max((one.consistent_at for one in complete_backups(view, copy)), default=0.0)
    return newest if newest is not None and _consistent_at(newest.backup) > latest else None


def _consistent_at(facts: BackupFacts | None) -> float:
    return 0.0 if facts is None else facts.consistent_at


def _stretch(
    work: Work, view: Reader, source: DBInstanceAutomatedBackup, copy: DBInstanceAutomatedBackup
) -> dict[str, Any] | None:
    """The log that is to be copied next and what can be promised then; None while there is nothing new."""
    found = view.find(DBInstance, source.scope, "dbi-resource-id", source.facts.dbi_resource_id)
    seen = last_seen_leader(work.tools.fleet, found[0]) if found else None
    promise = promise_of(source, seen)
    archived = "" if seen is None or seen.archive is None else seen.archive.position
    end = archived or source.position
    mine = complete_backups(view, copy)
    if not mine or not end or promise.latest_at is None:
        return None
    if (end, promise.timeline) == (copy.position, copy.timeline) or promise.latest_at <= (
        copy.latest_restorable_at or 0.0
    ):
        return None
    place = work.tools.engines.rules(source.facts.engine).log_position
    base = max(mine, key=lambda one: one.consistent_at)
    start = base.start_position
    if copy.position and copy.timeline == promise.timeline:
        start = copy.position
    elif copy.position:  # along the new history from a backup that the old one had reached
        reached = [one for one in mine if place(one.start_position) <= place(copy.position)]
        start = max(reached, key=lambda one: one.consistent_at, default=base).start_position
    if place(end) <= place(start):
        return None
    return {"start": start, "position": end, "timeline": promise.timeline, "latest_at": promise.latest_at}


def _retain(work: Work, tx: Transaction) -> None:
    copy = _copy_of(tx, work)
    if copy is not None and copy.status != RETAINED:
        stop_replication(tx, work.tools.clock.wall(), copy)


def _begin_backup(work: Work, tx: Transaction, newer: DBSnapshot) -> None:
    copy = _copy_of(tx, work)
    present = tx.get(DBSnapshot, newer.scope, newer.db_snapshot_identifier)
    if copy is None or copy.status == RETAINED or present is None:
        return
    facts = _facts(newer.facts, copy.facts.kms_key_id)
    tx.put(msgspec.structs.replace(copy, facts=facts))
    row = DBSnapshot(
        scope=copy.scope,
        db_snapshot_identifier=f"{newer.db_snapshot_identifier}-{newer.scope.region}",
        snapshot_type=AUTOMATED,
        facts=facts,
        repository_id=copy.repository_id,
        backup_id=newer.backup_id,
        requested_at=work.tools.clock.wall(),
        original_snapshot_create_time=newer.original_snapshot_create_time,
        source_region=newer.scope.region,
        source_db_snapshot_arn=newer.arn,
    )
    begin_copy(tx, work.tools.clock, row, newer)


async def _await_backup(work: Work) -> Outcome:
    with work.tools.store.read() as view:
        copy = _copy_of(view, work)
        rows = [] if copy is None else automated_snapshots(view, copy)
    row = next((one for one in rows if one.backup_id == work.job.frame["backup_id"]), None)
    if row is not None and row.status == CREATING:
        return Sleep(OBSERVE_AGAIN_S)
    if copy is None or row is None:
        return Next("await_time")
    if row.status == AVAILABLE:
        return Next("await_time", lambda tx: _have_backup(work, tx), {"failures": 0, "retry_at": 0.0})
    failed = row
    return _again(work, failed.failure, lambda tx: tx.delete(failed))


def _have_backup(work: Work, tx: Transaction) -> None:
    """Nothing is promised by it before there is log behind it."""
    copy = _copy_of(tx, work)
    if copy is None or copy.status == RETAINED:
        return
    newest = max(complete_backups(tx, copy), key=lambda one: one.consistent_at)
    tx.put(msgspec.structs.replace(copy, last_backup_at=newest.started_at, copy_failure=""))
    request_reclaim_in(tx, work.tools.clock.wall(), copy.scope, copy.repository_id)


async def _order_log(work: Work) -> Outcome:
    tools, frame = work.tools, work.job.frame
    try:
        with tools.store.read() as view:
            copy = _copy_of(view, work)
            source = None if copy is None else _source_of(view, copy)
            if copy is None or source is None or copy.status == RETAINED:
                return Next("await_time")
            order = RepositoryJob(
                job_id=frame["job_id"],
                kind=JobKind.COPY_LOG,
                subject=work.job.subject,
                engine=source.facts.engine,
                repository=open_repository(
                    view, tools.vault, require_repository(view, source.scope, source.repository_id)
                ),
                destination=open_repository(
                    view, tools.vault, require_repository(view, copy.scope, copy.repository_id)
                ),
                promised=LogPromise(
                    timeline=frame["timeline"], start_position=frame["start"], end_position=frame["position"]
                ),
            )
    except Permanent as error:  # a KMS key that is not enabled now
        return _again(work, error.message)
    await tools.fleet.start_job(order)
    return Next("await_log")


async def _await_log(work: Work) -> Outcome:
    status = work.tools.fleet.observe_job(work.job.frame["job_id"])
    if status is None:
        return Next("order_log")
    if status.phase is JobPhase.RUNNING:
        return Sleep(OBSERVE_AGAIN_S)
    if status.phase is JobPhase.FAILED:
        outcome = {"failed": status.failure or "no reason is known", "lost": status.fatal}
        return Next("forget_log", frame=outcome)
    return Next("forget_log", lambda tx: _have_log(work, tx), {"failed": "", "failures": 0, "retry_at": 0.0})


async def _forget_log(work: Work) -> Outcome:
    await work.tools.fleet.forget_job(work.job.frame["job_id"])
    failed, lost = work.job.frame["failed"], work.job.frame.get("lost", False)
    if not failed:
        return Next("await_time", frame=NOTHING_ORDERED)
    outcome = _again(work, failed, lambda tx: _begin_anew(work, tx) if lost else None)
    return Next(outcome.step, outcome.record, {**(outcome.frame or {}), **NOTHING_ORDERED})


def _have_log(work: Work, tx: Transaction) -> None:
    """What the source promised when the stretch was ordered is promised here now."""
    copy, frame = _copy_of(tx, work), work.job.frame
    if copy is None or copy.status == RETAINED:
        return
    source = _source_of(tx, copy)
    if source is not None and source.gap_at > copy.gap_at:
        note_gap(tx, copy, Gap(source.gap_since or source.gap_at, source.gap_at), work.tools.clock.wall())
        copy = _copy_of(tx, work) or copy
    tx.put(
        msgspec.structs.replace(
            copy, status=REPLICATING, latest_restorable_at=max(frame["latest_at"], copy.latest_restorable_at or 0.0),
            position=frame["position"], timeline=frame["timeline"],
            archive_recorded_at=work.tools.clock.wall(), copy_failure="",
        )
    )  # fmt: skip


def _begin_anew(work: Work, tx: Transaction) -> None:
    """The log does not go on from where the copy has it: it goes on from a later backup, if there is one."""
    copy = _copy_of(tx, work)
    if copy is None or not copy.position:
        return
    place = work.tools.engines.rules(copy.facts.engine).log_position
    later = [one for one in complete_backups(tx, copy) if place(one.start_position) > place(copy.position)]
    if not later:
        return
    begin = min(one.started_at for one in later)
    note_gap(tx, copy, Gap(copy.latest_restorable_at or begin, begin), work.tools.clock.wall())
    present = _copy_of(tx, work)
    if present is not None:
        tx.put(msgspec.structs.replace(present, position="", timeline=""))


def _again(work: Work, reason: str, record: Any = None) -> Next:
    """Later; what stands in the way is shown."""
    failures = work.job.frame.get("failures", 0) + 1
    retry_at = work.tools.clock.wall() + PAUSES_S[min(failures, len(PAUSES_S)) - 1]

    def tell(tx: Transaction) -> None:
        if record is not None:
            record(tx)
        copy = _copy_of(tx, work)
        if copy is not None:
            tx.put(msgspec.structs.replace(copy, copy_failure=reason[:1000]))

    log.warning("backups.not_replicated", subject=work.job.subject, error=reason, failures=failures)
    return Next("await_time", tell, {"failures": failures, "retry_at": retry_at})


async def _expire_retained(work: Work) -> Outcome:
    now = work.tools.clock.wall()
    with work.tools.store.read() as view:
        copy = _copy_of(view, work)
    if copy is None:
        return Finish()
    if copy.status != RETAINED:
        return Next("await_time")
    if now < work.job.frame.get("look_at", 0.0):
        return Sleep(work.job.frame["look_at"] - now)

    def record(tx: Transaction) -> None:
        request_reclaim_in(tx, now, copy.scope, copy.repository_id)

    return Next("expire_retained", record, {"look_at": now + RETAINED_AGAIN_S})


def _failed(work: Work, error: Permanent) -> Finish:
    """Only an invariant that does not hold leads here; what is there stays, and says why it does not get on."""

    def record(tx: Transaction) -> None:
        copy = _copy_of(tx, work)
        if copy is not None:
            tx.put(msgspec.structs.replace(copy, copy_failure=error.message))

    return Finish(record)


def _never_late(_work: Work, _tx: Transaction) -> None:
    """It goes on for as long as the backups do."""


REPLICATE_BACKUPS = Program(
    name="replicate_backups",
    first="await_time",
    steps={
        "await_time": Step(_await_time, successors=("await_time", "await_backup", "order_log", "expire_retained")),
        "await_backup": Step(_await_backup, successors=("await_time",)),
        "order_log": Step(_order_log, successors=("await_time", "await_log")),
        "await_log": Step(_await_log, successors=("order_log", "forget_log")),
        "forget_log": Step(_forget_log, successors=("await_time",)),
        "expire_retained": Step(_expire_retained, successors=("expire_retained", "await_time")),
    },
    deadline_s=30 * DAY_S,
    failed=_failed,
    overdue=_never_late,
)
