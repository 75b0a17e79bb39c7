"""Making one DB snapshot, manual or automated, from a running instance or from another snapshot.

The record is there, `creating`, before the agent hears of it; what became of it is recorded before the agent may
forget its job. A job that the agent does not know (any more) is ordered again under the same id. If the record goes
away meanwhile, the job is given up.

One that may be a clone of its instance's volume is `available` as soon as the clone is on disk, and `local` until it is
in the object storage, which is then tried until it is: only a clone that is lost with its host makes it `failed`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.host.clock import Clock
from mainstay.host.randomness import HEX, Randomness
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import (
    ACTIVE,
    AUTOMATED,
    AVAILABLE,
    CREATING,
    FAILED,
    MANUAL,
    BackupRef,
    DBInstanceAutomatedBackup,
    DBSnapshot,
    snapshot_subject,
)
from mainstay.model.errors import Permanent
from mainstay.model.node import NodePhase, NodeStatus, leading
from mainstay.model.repository_job import BackupFacts, JobKind, JobPhase, JobStatus, RepositoryJob
from mainstay.services.rds.events import record_event
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, bring_forward, new_job
from mainstay.workflows.progress import pace_of, tell_or_sleep
from mainstay.workflows.reclaim_repository import is_clearing, note_filled, request_clearing_in, request_reclaim_in
from mainstay.workflows.repositories import facts_of, may_be_opened, open_repository, require_repository
from mainstay.workflows.volumes import key_of_clone

OBSERVE_AGAIN_S = 5.0
READY_AGAIN_S = 2.0
LOCKED_AGAIN_S = 60.0
CLEARED_AGAIN_S = 0.5
GIVE_UP_S = 3600.0
"""For so long a snapshot waits for an instance that does not run, or goes on trying what fails."""
PAUSES_S = (2.0, 10.0, 60.0, 300.0)
BACKUP_ID_CHARACTERS = 8
DEADLINE_S = 6 * 3600.0


def new_backup_id(randomness: Randomness, now: float) -> str:
    """Names one more backup; such names sort by time."""
    stamp = time.strftime("%Y%m%dt%H%M%Sz", time.gmtime(now))
    return f"{stamp}-{randomness.text(BACKUP_ID_CHARACTERS, HEX)}"


def begin_snapshot(
    tx: Transaction,
    clock: Clock,
    instance: DBInstance,
    identifier: str,
    backup_id: str,
    *,
    snapshot_type: str = MANUAL,
    tags: Mapping[str, str] | None = None,
    clone: bool = False,
) -> DBSnapshot:
    """Records a snapshot of the instance, into its repository, as `creating` and starts the workflow.

    `clone`: it may be on the instance's host alone for a while, where that makes it available at once.
    """
    now = clock.wall()
    row = DBSnapshot(
        scope=instance.scope,
        db_snapshot_identifier=identifier,
        snapshot_type=snapshot_type,
        facts=facts_of(instance),
        repository_id=instance.repository_id,
        backup_id=backup_id,
        requested_at=now,
        tags=dict(tags or {}),
        wrapped_volume_key=instance.wrapped_volume_key if clone else "",
        volume_key_owner=(instance.volume_key_owner or instance.dbi_resource_id) if clone else "",
    )
    tx.insert(row)
    record_event(tx, clock, instance, "RDS-EVENT-0001")
    record_event(tx, clock, row, "RDS-EVENT-0040" if snapshot_type == MANUAL else "RDS-EVENT-0090")
    _start(tx, now, row, clone=clone)
    return row


def begin_copy(tx: Transaction, clock: Clock, row: DBSnapshot, source: DBSnapshot) -> DBSnapshot:
    """Records a copy whose data must be copied (`row.repository_id`: a fresh one) and starts the workflow."""
    now = clock.wall()
    ref = BackupRef(scope=source.scope, repository_id=source.repository_id, backup_id=source.backup_id)
    row = msgspec.structs.replace(row, backup_id=source.backup_id, copy_of=ref, status=CREATING)
    tx.insert(row)
    record_event(tx, clock, row, "RDS-EVENT-0059", snapshot=source.db_snapshot_identifier, region=source.scope.region)
    _start(tx, now, row)
    return row


def _start(tx: Transaction, now: float, row: DBSnapshot, *, clone: bool = False) -> None:
    frame: dict[str, Any] = {
        "db_snapshot_identifier": row.db_snapshot_identifier,
        "backup_id": row.backup_id,
        "repository_id": row.repository_id,
        "job_id": row.job_id,
        "clone": clone,
    }
    tx.add_job(new_job(MAKE_SNAPSHOT, row.subject, row.scope, now, frame))


def snapshot_of(reader: Reader, work: Work) -> DBSnapshot | None:
    """The record that the job makes, None when it is not wanted any more."""
    row = reader.get(DBSnapshot, work.job.scope, work.job.frame["db_snapshot_identifier"])
    return row if row is not None and row.backup_id == work.job.frame["backup_id"] else None


def _wanted(reader: Reader, work: Work) -> DBSnapshot | None:
    """As `snapshot_of`; of a local one there may be copies, which stay when it goes."""
    return snapshot_of(reader, work) or next(iter(_local_rows(reader, work)), None)


def _local_rows(reader: Reader, work: Work) -> list[DBSnapshot]:
    """The snapshot while it is on its host only, and its copies, which share its data."""
    frame = work.job.frame
    rows = reader.find(DBSnapshot, work.job.scope, "repository", frame["repository_id"])
    return [row for row in rows if row.local and row.backup_id == frame["backup_id"]]


def instance_shown(reader: Reader, row: DBSnapshot) -> DBInstance | None:
    """The instance that the snapshot shows, None when it is gone."""
    found = reader.find(DBInstance, row.scope, "dbi-resource-id", row.facts.dbi_resource_id)
    return found[0] if found else None


def being_made(reader: Reader, instance: DBInstance) -> list[DBSnapshot]:
    """The snapshots of the instance that are being made from it now."""
    rows = reader.find(DBSnapshot, instance.scope, "dbi-resource-id", instance.dbi_resource_id)
    return [row for row in rows if row.status == CREATING and row.copy_of is None]


async def _order(work: Work) -> Outcome:
    tools, now = work.tools, work.tools.clock.wall()
    if now < work.job.frame.get("retry_at", 0.0):
        return Sleep(work.job.frame["retry_at"] - now)
    with tools.store.read() as view:
        row = _wanted(view, work)
        if row is None:
            return Next("forget_job")
        if is_clearing(view, row.repository_id):
            return Sleep(CLEARED_AGAIN_S)
        source = row.copy_of
        if source is not None and view.jobs(snapshot_subject(source.repository_id, source.backup_id)):
            return Sleep(READY_AGAIN_S)  # what is to be copied is still being stored
        if row.local and not may_be_opened(view, require_repository(view, row.scope, row.repository_id)):
            return Sleep(LOCKED_AGAIN_S)
        job = _backup_job(work, view, row) if source is None else _copy_job(work, view, row, source)
    if job is None:
        if now > work.job.created_at + GIVE_UP_S:
            return Next("forget_job", lambda tx: _gave_up(work, tx, "The DB instance does not run."))
        return Sleep(READY_AGAIN_S)
    await tools.fleet.start_job(job)
    return Next("await_outcome")


def _backup_job(work: Work, view: Reader, row: DBSnapshot) -> RepositoryJob | None:
    """The order to back up the node that leads, None while none runs; or to store the clone that there is."""
    node_id, clone = "", row.local
    if not row.local:
        instance = instance_shown(view, row)
        if instance is None:
            raise Permanent("The DB instance was deleted before the snapshot was complete.")
        seen = running_leader(work, instance)
        if seen is None:
            return None
        node_id, clone = seen.node_id, work.job.frame.get("clone", False) and bool(instance.volume_driver)
    repository = require_repository(view, row.scope, row.repository_id)
    key = key_of_clone(view, work.tools.vault, row) if clone and row.wrapped_volume_key else ""
    return RepositoryJob(
        job_id=row.job_id,
        kind=JobKind.BACKUP,
        subject=row.subject,
        engine=row.facts.engine,
        repository=open_repository(view, work.tools.vault, repository),
        node_id=node_id,
        backup_id=row.backup_id,
        cloned=clone,
        volume_key=key,
    )


def running_leader(work: Work, instance: DBInstance) -> NodeStatus | None:
    """The node that leads, if it runs. Raises `Transient` if its agent is away."""
    seen = leading([work.tools.fleet.observe(node_id) for node_id in instance.node_ids])
    return seen if seen is not None and seen.phase is NodePhase.RUNNING else None


def _copy_job(work: Work, view: Reader, row: DBSnapshot, source: BackupRef) -> RepositoryJob:
    vault = work.tools.vault
    return RepositoryJob(
        job_id=row.job_id,
        kind=JobKind.COPY,
        subject=row.subject,
        engine=row.facts.engine,
        repository=open_repository(view, vault, require_repository(view, source.scope, source.repository_id)),
        destination=open_repository(view, vault, require_repository(view, row.scope, row.repository_id)),
        backup_id=source.backup_id,
    )


async def _await_outcome(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.read() as view:
        row = _wanted(view, work)
        if row is None:
            return Next("forget_job")
    status = tools.fleet.observe_job(work.job.frame["job_id"])
    if status is None:
        return Next("order")
    local = status.local
    if local is not None and row.status == CREATING:
        return Next("await_outcome", lambda tx: _cloned(work, tx, local))
    if status.phase is JobPhase.RUNNING:
        pace = pace_of(status, tools.clock.wall())
        return tell_or_sleep(work, pace, lambda tx, words: _tell_progress(work, tx, words), OBSERVE_AGAIN_S)
    if status.phase is JobPhase.DONE and status.backup is not None:
        facts = status.backup
        return Next("forget_job", lambda tx: _complete(work, tx, facts, status.copied_because))
    return _after_failure(work, status)


def _tell_progress(work: Work, tx: Transaction, words: str) -> None:
    """To whoever was told of the beginning."""
    clock, row = work.tools.clock, _wanted(tx, work)
    if row is None:
        return
    if row.local:
        record_event(tx, clock, row, "MAINSTAY-EVENT-0009", doing="Storing of the snapshot", progress=words)
        return
    if row.copy_of is not None:
        snapshot, region = _source_words(row)
        doing = f"Copy of snapshot {snapshot} from region {region}"
        record_event(tx, clock, row, "MAINSTAY-EVENT-0009", doing=doing, progress=words)
        return
    record_event(tx, clock, row, "MAINSTAY-EVENT-0008", doing="Creation of the snapshot", progress=words)
    instance = instance_shown(tx, row)
    if instance is not None:
        record_event(tx, clock, instance, "MAINSTAY-EVENT-0007", doing="Backup", progress=words)


def _source_words(row: DBSnapshot) -> tuple[str, str]:
    """Name and region of what a copy is a copy of; `row.source_region` is shown, and empty in the same region."""
    region = "" if row.copy_of is None else row.copy_of.scope.region
    return row.source_db_snapshot_arn.partition(":snapshot:")[2], region


def _after_failure(work: Work, status: JobStatus) -> Outcome:
    """An automated backup is tried again by its timer; a manual one here, for a while."""
    now, reason = work.tools.clock.wall(), status.failure or "no reason is known"
    failures = work.job.frame.get("failures", 0) + 1
    with work.tools.store.read() as view:
        row = _wanted(view, work)
    automated = row is not None and row.snapshot_type == AUTOMATED
    if row is not None and row.local:
        return _store_again(work, status, failures)
    if status.fatal or automated or failures > len(PAUSES_S) or now > work.job.created_at + GIVE_UP_S:
        return Next("forget_job", lambda tx: _gave_up(work, tx, reason))
    return Next("forget_failed_job", frame={"failures": failures, "retry_at": now + PAUSES_S[failures - 1]})


def _store_again(work: Work, status: JobStatus, failures: int) -> Outcome:
    """There is a clone, so there is no end to trying; a person is told once."""
    now, reason = work.tools.clock.wall(), status.failure or "no reason is known"
    if status.fatal and status.local is None:  # it is gone
        return Next("forget_job", lambda tx: _gave_up(work, tx, reason))

    def tell(tx: Transaction) -> None:
        row = _wanted(tx, work)
        if row is not None and failures == len(PAUSES_S):
            text = f"The DB snapshot {row.db_snapshot_identifier} is on its host only: it could not be stored: {reason}"
            record_event(tx, work.tools.clock, row, "MAINSTAY-EVENT-0002", reason=text)

    pause_s = PAUSES_S[min(failures, len(PAUSES_S)) - 1]
    return Next("forget_failed_job", tell, frame={"failures": failures, "retry_at": now + pause_s})


async def _forget_failed_job(work: Work) -> Outcome:
    await work.tools.fleet.forget_job(work.job.frame["job_id"])
    return Next("order")


async def _forget_job(work: Work) -> Outcome:
    await work.tools.fleet.forget_job(work.job.frame["job_id"])

    def record(tx: Transaction) -> None:
        if _wanted(tx, work) is None:  # given up: what was stored of it is nobody's
            request_clearing_in(tx, work.tools.clock.wall(), work.job.scope, work.job.frame["repository_id"])
        else:
            bring_forward(tx, f"repository:{work.job.frame['repository_id']}", work.tools.clock.wall())

    return Finish(record)


def _cloned(work: Work, tx: Transaction, facts: BackupFacts) -> None:
    """It can be restored, on this host, and its instance goes on."""
    clock = work.tools.clock
    row = _wanted(tx, work)
    if row is None:
        return
    row = _available(row, facts, clock.wall(), local=True)
    tx.put(row)
    record_event(tx, clock, row, "RDS-EVENT-0042")
    _leave(work, tx, row, "RDS-EVENT-0002")


def _available(row: DBSnapshot, facts: BackupFacts, now: float, *, local: bool) -> DBSnapshot:
    return msgspec.structs.replace(
        row,
        status=AVAILABLE,
        local=local,
        percent_progress=0 if local else 100,
        backup=facts,
        snapshot_create_time=now,
        original_snapshot_create_time=row.original_snapshot_create_time or now,
        snapshot_database_time=facts.consistent_at,
    )


def _stored(work: Work, tx: Transaction, facts: BackupFacts) -> None:
    """What was on its host only is in the object storage, also for its copies."""
    for row in _local_rows(tx, work):
        tx.put(msgspec.structs.replace(row, local=False, percent_progress=100, backup=facts))
        text = f"The DB snapshot {row.db_snapshot_identifier} is in the object storage"
        record_event(tx, work.tools.clock, row, "MAINSTAY-EVENT-0002", reason=text)
    note_filled(tx, work.job.scope, work.job.frame["repository_id"])


def _complete(work: Work, tx: Transaction, facts: BackupFacts, copied_because: str = "") -> None:
    clock = work.tools.clock
    row = _wanted(tx, work)
    if row is None or row.local:
        _stored(work, tx, facts)
        return
    now = clock.wall()
    row = _available(row, facts, now, local=False)
    row = msgspec.structs.replace(row, copied_because=copied_because)
    tx.put(row)
    note_filled(tx, row.scope, row.repository_id)
    if row.copy_of is not None:
        snapshot, region = _source_words(row)
        record_event(tx, clock, row, "RDS-EVENT-0060", snapshot=snapshot, region=region)
        request_reclaim_in(tx, now, row.copy_of.scope, row.copy_of.repository_id)
        return
    record_event(tx, clock, row, "RDS-EVENT-0042" if row.snapshot_type == MANUAL else "RDS-EVENT-0091")
    if row.snapshot_type == AUTOMATED:
        _note_automated(tx, row, facts)
    _leave(work, tx, row, "RDS-EVENT-0002")


def _note_automated(tx: Transaction, row: DBSnapshot, facts: BackupFacts) -> None:
    """The instance's automated backups have one more."""
    backup = tx.get(DBInstanceAutomatedBackup, row.scope, row.facts.dbi_resource_id)
    if backup is not None and backup.repository_id == row.repository_id:
        latest = max(backup.latest_restorable_at or 0.0, facts.consistent_at)
        tx.put(
            msgspec.structs.replace(
                backup,
                facts=row.facts,
                status=ACTIVE,
                last_backup_at=facts.started_at,
                latest_restorable_at=latest,
                timeline=backup.timeline or facts.timeline,
            )
        )


def _leave(work: Work, tx: Transaction, row: DBSnapshot, event_id: str = "") -> None:
    """The instance is not backing up any more, and whoever waits for the snapshot looks again."""
    clock = work.tools.clock
    instance = instance_shown(tx, row)
    if instance is not None:
        if event_id:
            record_event(tx, clock, instance, event_id)
        if instance.change == "backing-up" and not being_made(tx, instance):
            tx.put(msgspec.structs.replace(instance, change=""))
    for subject in (f"backup:{row.facts.dbi_resource_id}", f"db:{row.facts.dbi_resource_id}"):
        bring_forward(tx, subject, clock.wall())


def _gave_up(work: Work, tx: Transaction, reason: str) -> None:
    """The record says why; what was stored of it already is cleared away."""
    clock = work.tools.clock
    row = _wanted(tx, work)
    if row is None:
        return
    for one in _local_rows(tx, work):  # copies have lost what it has lost
        tx.put(msgspec.structs.replace(one, status=FAILED, local=False, failure=reason))
    row = msgspec.structs.replace(row, status=FAILED, local=False, failure=reason)
    tx.put(row)
    if row.copy_of is not None:
        snapshot, region = _source_words(row)
        record_event(tx, clock, row, "RDS-EVENT-0061", snapshot=snapshot, region=region)
        request_reclaim_in(tx, clock.wall(), row.copy_of.scope, row.copy_of.repository_id)
    else:
        _leave(work, tx, row)
    if row.snapshot_type == MANUAL:
        text = f"The DB snapshot {row.db_snapshot_identifier} could not be made: {reason}"
        record_event(tx, clock, row, "MAINSTAY-EVENT-0002", reason=text)
    request_clearing_in(tx, clock.wall(), row.scope, row.repository_id)


def _failed(work: Work, error: Permanent) -> Finish:
    """Nothing was ordered, or it is forgotten by the agent with its node."""
    return Finish(lambda tx: _gave_up(work, tx, error.message))


def _tell_overdue(work: Work, tx: Transaction) -> None:
    """A person should look."""
    row: Any = _wanted(tx, work)
    if row is not None:
        reason = f"The DB snapshot {row.db_snapshot_identifier} is late."
        record_event(tx, work.tools.clock, row, "MAINSTAY-EVENT-0002", reason=reason)


MAKE_SNAPSHOT = Program(
    name="make_db_snapshot",
    first="order",
    steps={
        "order": Step(_order, successors=("await_outcome", "forget_job")),
        "await_outcome": Step(_await_outcome, successors=("await_outcome", "order", "forget_failed_job", "forget_job")),
        "forget_failed_job": Step(_forget_failed_job, successors=("order",)),
        "forget_job": Step(_forget_job),
    },
    deadline_s=DEADLINE_S,
    failed=_failed,
    overdue=_tell_overdue,
)
