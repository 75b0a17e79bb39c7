"""Reads back everything that a repository holds for an instance, or one snapshot, and records what was found.

Nothing is removed from the repository meanwhile (`reclaim_repository.needed`), and it is not begun while something is.
A verification that an agent has forgotten begins anew.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import structlog

from mainstay.decide.log_loss import NEVER, loss_of
from mainstay.decide.restore_window import DAY_S, Gap
from mainstay.model.db_snapshot import AVAILABLE, BackupRepository, DBInstanceAutomatedBackup, DBSnapshot, Proof
from mainstay.model.errors import Permanent
from mainstay.model.repository_job import BackupFacts, JobKind, JobPhase, LogPromise, LostLog, RepositoryJob
from mainstay.services.rds.events import record_event
from mainstay.services.rds.promises import complete_backups, log_promise
from mainstay.store import Job, Reader, Transaction
from mainstay.workflows.automated_backups import note_gap
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, new_job
from mainstay.workflows.fleet import last_seen_leader
from mainstay.workflows.progress import pace_of, tell_or_sleep
from mainstay.workflows.proofs import proof_of, source_instance, tell, words
from mainstay.workflows.reclaim_repository import is_clearing, request_reclaim_in, verifying
from mainstay.workflows.repositories import open_repository

OBSERVE_AGAIN_S = 5.0
CLEARED_AGAIN_S = 0.5
FAILURES_MAX = 3
FAILED_AGAIN_S = 5.0
log = structlog.get_logger()


def begin_verification(tx: Transaction, now: float, repository: BackupRepository, row: DBSnapshot | None) -> Job:
    """Starts it, for one snapshot or (None) all there is; one that is under way already is joined.

    Raises `Permanent` if there is nothing to read, or something else is being verified.
    """
    name = "" if row is None else row.db_snapshot_identifier
    for job in tx.jobs(verifying(repository.repository_id)):
        if job.frame["snapshot"] == name:
            return job
        raise Permanent("another verification of these backups is under way", hint="Wait until it has ended.")
    if not _backup_ids(tx, repository, name):
        raise Permanent("there is no complete backup to verify", hint="`mainstay backups list` shows what there is.")
    job_id = f"{repository.repository_id}-verify-{int(now * 1000)}"
    frame = {"snapshot": name, "job_id": job_id}
    return tx.add_job(new_job(VERIFY, verifying(repository.repository_id), repository.scope, now, frame))


def _backup_ids(reader: Reader, repository: BackupRepository, name: str) -> tuple[str, ...]:
    rows = reader.find(DBSnapshot, repository.scope, "repository", repository.repository_id)
    stored = [row for row in rows if row.status == AVAILABLE and not row.local]
    wanted = [row for row in stored if name in ("", row.db_snapshot_identifier)]
    return tuple(sorted({row.backup_id for row in wanted}))


def _repository(reader: Reader, work: Work) -> BackupRepository | None:
    return reader.get(BackupRepository, work.job.scope, work.job.subject.removeprefix("verify:"))


async def _order(work: Work) -> Outcome:
    tools, frame = work.tools, work.job.frame
    with tools.store.read() as view:
        repository = _repository(view, work)
        if repository is None:
            return Finish()
        if is_clearing(view, repository.repository_id):
            return Sleep(CLEARED_AGAIN_S)
        backup_ids = _backup_ids(view, repository, frame["snapshot"])
        promised = None if frame["snapshot"] else _promised(view, work, repository)
        opened = open_repository(view, tools.vault, repository)
    if not backup_ids:
        raise Permanent("There is no complete backup any more.")
    order = RepositoryJob(
        job_id=frame["job_id"],
        kind=JobKind.VERIFY,
        subject=work.job.subject,
        engine=repository.engine,
        repository=opened,
        kept_backups=backup_ids,
        promised=promised,
    )
    await tools.fleet.start_job(order)
    return Next("await_outcome")


def _promised(view: Reader, work: Work, repository: BackupRepository) -> LogPromise | None:
    backup = view.get(DBInstanceAutomatedBackup, repository.scope, repository.dbi_resource_id)
    if backup is None or backup.repository_id != repository.repository_id:
        return None
    instance = source_instance(view, repository)
    seen = None if instance is None else last_seen_leader(work.tools.fleet, instance)
    return log_promise(view, backup, seen)


async def _await_outcome(work: Work) -> Outcome:
    status = work.tools.fleet.observe_job(work.job.frame["job_id"])
    if status is None:
        return Next("order")
    if status.phase is JobPhase.RUNNING:
        pace = pace_of(status, work.tools.clock.wall())
        return tell_or_sleep(work, pace, lambda tx, words: _tell_progress(work, tx, words), OBSERVE_AGAIN_S)
    since = status.started_at or work.job.created_at
    if status.phase is JobPhase.FAILED:
        failures = work.job.frame.get("failures", 0) + 1
        if not status.fatal and failures < FAILURES_MAX:
            return Next("forget_failed_job", frame={"failures": failures})
        proof = proof_of(at=work.tools.clock.wall(), since=since, failure=status.failure or "no reason is known")
    else:
        proof = proof_of(at=work.tools.clock.wall(), since=since, size_bytes=status.bytes_total, damages=status.damages)
    return Next("forget_job", lambda tx: _record(work, tx, proof, status.lost_log))


def _tell_progress(work: Work, tx: Transaction, words: str) -> None:
    clock, repository, name = work.tools.clock, _repository(tx, work), work.job.frame["snapshot"]
    row = tx.get(DBSnapshot, work.job.scope, name) if name else None
    instance = None if repository is None else source_instance(tx, repository)
    if row is not None:
        record_event(tx, clock, row, "MAINSTAY-EVENT-0009", doing="Verification", progress=words)
    elif instance is not None and not name:
        doing = "Verification of the backups"
        record_event(tx, clock, instance, "MAINSTAY-EVENT-0007", doing=doing, progress=words)


async def _forget_failed_job(work: Work) -> Outcome:
    """Then it is tried again, after a pause that is no reason to hurry."""
    await work.tools.fleet.forget_job(work.job.frame["job_id"])
    return Next("pause", frame={"pause_until": work.tools.clock.wall() + FAILED_AGAIN_S})


async def _pause(work: Work) -> Outcome:
    left_s = work.job.frame["pause_until"] - work.tools.clock.wall()
    return Sleep(left_s) if left_s > 0 else Next("order")


async def _forget_job(work: Work) -> Outcome:
    await work.tools.fleet.forget_job(work.job.frame["job_id"])
    return Finish(lambda tx: _go_on(work, tx))


def _go_on(work: Work, tx: Transaction) -> None:
    """What was to be removed may be removed now."""
    repository_id = work.job.subject.removeprefix("verify:")
    request_reclaim_in(tx, work.tools.clock.wall(), work.job.scope, repository_id)


def _record(work: Work, tx: Transaction, proof: Proof, lost: tuple[LostLog, ...] = ()) -> None:
    repository = _repository(tx, work)
    if repository is None:
        return
    clock, name = work.tools.clock, work.job.frame["snapshot"]
    good = f"read back {proof.size_bytes} bytes and found everything as it was written"
    if name:
        row = tx.get(DBSnapshot, work.job.scope, name)
        if row is not None and row.repository_id == repository.repository_id:
            row = msgspec.structs.replace(row, verified=proof)
            tx.put(row)
            tell(
                tx,
                clock,
                repository,
                proof,
                words(proof, f"The verification of the DB snapshot {name}", good, "found damage"),
                row,
            )
        return
    tx.put(msgspec.structs.replace(repository, verified=proof))
    for row in tx.find(DBSnapshot, repository.scope, "repository", repository.repository_id):
        if row.status == AVAILABLE and not proof.failure:
            tx.put(msgspec.structs.replace(row, verified=_share(proof, row.backup_id)))
    tell(tx, clock, repository, proof, words(proof, "The verification of the backups", good, "found damage"))
    if lost:
        _record_loss(work, tx, repository, lost)


def _record_loss(work: Work, tx: Transaction, repository: BackupRepository, lost: tuple[LostLog, ...]) -> None:
    """Nothing is promised any more that needs the lost log; a new backup, at once, begins a new window."""
    backup = tx.get(DBInstanceAutomatedBackup, repository.scope, repository.dbi_resource_id)
    if backup is None or backup.repository_id != repository.repository_id:
        return
    backups = complete_backups(tx, backup)
    place = work.tools.engines.rules(repository.engine).log_position
    gap = loss_of(lost, backups, backup.log_marks, place)
    if not note_gap(tx, backup, gap, work.tools.clock.wall()):
        return
    instance = source_instance(tx, repository)
    if instance is not None:
        reason = _told(gap, [one for one in backups if one.started_at >= gap.until])
        record_event(tx, work.tools.clock, instance, "MAINSTAY-EVENT-0004", reason=reason)


def _told(gap: Gap, healed: list[BackupFacts]) -> str:
    since = "the oldest backup on" if gap.since <= NEVER else f"{_moment(gap.since)} on"
    if healed:
        until = _moment(min(one.consistent_at for one in healed))
        return f"A part of the log of this DB instance is lost: from {since} it can be restored only after {until}."
    return (
        f"A part of the log of this DB instance is lost: from {since} it cannot be restored, and LatestRestorableTime"
        " has moved back. A new automated backup is taken at once; from then on it can."
    )


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _share(proof: Proof, backup_id: str) -> Proof:
    """What a verification of all says of one backup: its own damages, and those of the log."""
    mine = tuple(
        one for one in proof.damages if one.startswith(f"backup {backup_id}:") or not one.startswith("backup ")
    )
    return msgspec.structs.replace(proof, damages=mine)


def _failed(work: Work, error: Permanent) -> Finish:
    now = work.tools.clock.wall()
    return Finish(lambda tx: _record(work, tx, proof_of(at=now, since=work.job.created_at, failure=error.message)))


def _tell_overdue(work: Work, _tx: Transaction) -> None:
    """It goes on; whoever asked for it sees that it does."""
    log.error("verification.late", subject=work.job.subject, step=work.job.step)


VERIFY = Program(
    name="verify_backups",
    first="order",
    steps={
        "order": Step(_order, successors=("await_outcome",)),
        "await_outcome": Step(_await_outcome, successors=("await_outcome", "order", "forget_failed_job", "forget_job")),
        "forget_failed_job": Step(_forget_failed_job, successors=("pause",)),
        "pause": Step(_pause, successors=("order",)),
        "forget_job": Step(_forget_job),
    },
    deadline_s=DAY_S,
    failed=_failed,
    overdue=_tell_overdue,
)
