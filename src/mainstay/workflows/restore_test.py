"""Proves that the backups of an instance restore: restores its newest restorable moment, checks it, throws it away.

The copy is an ordinary instance of a name of its own (`SCRATCH`), which is shown like any other and carries the tag
`TAG`; it is of the smallest class, with default parameters: the backup is tested, not the settings. It is deleted
whatever comes of the test; nothing but what carries the tag and was made of these backups is ever deleted here.
"""

from __future__ import annotations

import shutil

import msgspec
import structlog

from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import BackupRepository, DBInstanceAutomatedBackup, Proof
from mainstay.model.errors import ApiError, Permanent
from mainstay.model.node import NodePhase, leading
from mainstay.model.repository_job import JobKind, JobPhase, RepositoryJob
from mainstay.services.rds.instance_actions import delete_db_instance
from mainstay.services.rds.internal import internal_call
from mainstay.services.rds.promises import complete_backups
from mainstay.services.rds.restore_db_instance import restore_db_instance_to_point_in_time
from mainstay.services.rds.restore_test_request import DEADLINE_S, FIRST_STEP, PROGRAM
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work
from mainstay.workflows.proofs import proof_of, source_instance, tell, words
from mainstay.workflows.repositories import reference, require_repository

SCRATCH = "restore-test-"
TAG = "mainstay:restore-test-of"
CLASS = "db.t3.micro"
OBSERVE_AGAIN_S = 2.0
AVAILABLE_WITHIN_S = 8 * 3600.0
FAILURES_MAX = 3
ROOM_FACTOR = 1.25
"""Free disk space that must be there, as a part of the backup's size: its log needs room too."""
log = structlog.get_logger()


def scratch_name(repository_id: str) -> str:
    """The identifier of the instance that a test makes: one a repository."""
    return SCRATCH + repository_id.removeprefix("repo-")


def scratch_of(reader: Reader, repository: BackupRepository) -> DBInstance | None:
    """That instance, if it is one that a test made."""
    found = reader.get(DBInstance, repository.scope, scratch_name(repository.repository_id))
    if found is None or TAG not in found.tags or found.restore_from is None:
        return None
    return found if found.restore_from.repository_id == repository.repository_id else None


def _repository(reader: Reader, work: Work) -> BackupRepository:
    return require_repository(reader, work.job.scope, work.job.subject.removeprefix("restore-test:"))


async def _restore(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.transaction() as tx:
        repository = _repository(tx, work)
        if scratch_of(tx, repository) is None:
            backup = tx.get(DBInstanceAutomatedBackup, work.job.scope, work.job.frame["dbi_resource_id"])
            if backup is None or backup.repository_id != repository.repository_id:
                raise Permanent("The automated backups have ended.")
            _require_room(work, tx, backup)
            request = _request(repository, backup, source_instance(tx, repository))
            restore_db_instance_to_point_in_time(internal_call(tx, tools, work.job.scope), request)
        made = scratch_of(tx, repository)
    if made is None or made.restore_from is None:
        raise Permanent(f"The DB instance {scratch_name(repository.repository_id)} was not made.")
    return Next("await_available", frame={"moment": made.restore_from.target.at})


def _request(
    repository: BackupRepository, backup: DBInstanceAutomatedBackup, source: DBInstance | None
) -> dict[str, object]:
    """Where the source is, if it is still there: a default place may not exist."""
    place: dict[str, object] = {}
    if source is not None:
        place = {
            "DBSubnetGroupName": source.db_subnet_group_name,
            "VpcSecurityGroupIds": list(source.vpc_security_group_ids),
        }
    return place | {
        "SourceDbiResourceId": backup.facts.dbi_resource_id,
        "TargetDBInstanceIdentifier": scratch_name(repository.repository_id),
        "UseLatestRestorableTime": True,
        "DBInstanceClass": CLASS,
        "MultiAZ": False,
        "BackupRetentionPeriod": 0,
        "Tags": [{"Key": TAG, "Value": backup.facts.db_instance_identifier}],
    }


def _require_room(work: Work, tx: Transaction, backup: DBInstanceAutomatedBackup) -> None:
    """A test must not fill the disk of the databases."""
    size = max((one.size_bytes for one in complete_backups(tx, backup)), default=0)
    home = work.tools.settings.home
    free = shutil.disk_usage(home).free if home.exists() else 0
    if home.exists() and free < size * ROOM_FACTOR:
        raise Permanent(f"The backup has {size} bytes, and {home} only {free} bytes of free space.")


async def _await_available(work: Work) -> Outcome:
    tools, now = work.tools, work.tools.clock.wall()
    with tools.store.read() as view:
        scratch = scratch_of(view, _repository(view, work))
    if scratch is None or scratch.change == "deleting":
        return _over(work, failure="The restored instance was deleted by somebody.")
    if scratch.failure:
        return _over(work, damages=(f"The restore failed: {scratch.failure}",))
    if now > work.job.created_at + AVAILABLE_WITHIN_S:
        return _over(work, failure=f"The restored instance was not available within {AVAILABLE_WITHIN_S:.0f} s.")
    seen = leading([tools.fleet.observe(node_id) for node_id in scratch.node_ids])
    if scratch.change or seen is None or seen.phase is not NodePhase.RUNNING:
        return Sleep(OBSERVE_AGAIN_S)
    return Next("check")


async def _check(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.read() as view:
        repository = _repository(view, work)
        scratch = scratch_of(view, repository)
    if scratch is None:
        return _over(work, failure="The restored instance was deleted by somebody.")
    order = RepositoryJob(
        job_id=work.job.frame["job_id"],
        kind=JobKind.CHECK,
        subject=work.job.subject,
        engine=repository.engine,
        repository=reference(repository),  # nothing of it is read
        node_id=scratch.node_id,
    )
    await tools.fleet.start_job(order)
    return Next("await_outcome")


async def _await_outcome(work: Work) -> Outcome:
    status = work.tools.fleet.observe_job(work.job.frame["job_id"])
    if status is None:
        return Next("check")
    if status.phase is JobPhase.RUNNING:
        return Sleep(OBSERVE_AGAIN_S)
    if status.phase is JobPhase.DONE:
        damages = tuple(f"The restored instance is not sound: {one}" for one in status.damages)
        return _over(work, damages=damages, size_bytes=status.bytes_total)
    failures = work.job.frame.get("failures", 0) + 1
    if status.fatal or failures >= FAILURES_MAX:
        return _over(work, failure=f"The restored instance could not be checked: {status.failure}")
    return Next("forget_failed_job", frame={"failures": failures})


async def _forget_failed_job(work: Work) -> Outcome:
    await work.tools.fleet.forget_job(work.job.frame["job_id"])
    return Next("await_available")


def _over(work: Work, *, failure: str = "", damages: tuple[str, ...] = (), size_bytes: int = 0) -> Next:
    """What it came to is recorded before anything is deleted."""
    proof = proof_of(
        at=work.tools.clock.wall(),
        since=work.job.created_at,
        size_bytes=size_bytes,
        moment=work.job.frame.get("moment"),
        damages=damages,
        failure=failure,
    )
    return Next("delete", lambda tx: _record(work, tx, proof))


def _record(work: Work, tx: Transaction, proof: Proof) -> None:
    repository_id = work.job.subject.removeprefix("restore-test:")
    repository = tx.get(BackupRepository, work.job.scope, repository_id)
    if repository is None:
        return
    proven_at = proof.at if proof.good else repository.restore_proven_at
    tx.put(msgspec.structs.replace(repository, restore_tested=proof, restore_proven_at=proven_at))
    good = f"restored the newest moment and read all of its {proof.size_bytes} bytes without a fault"
    tell(tx, work.tools.clock, repository, proof, words(proof, "The restore test of the backups", good, "failed"))


async def _delete(work: Work) -> Outcome:
    await work.tools.fleet.forget_job(work.job.frame["job_id"])
    with work.tools.store.transaction() as tx:
        _begin_deletion(work, tx)
    return Next("await_deleted")


def _begin_deletion(work: Work, tx: Transaction) -> None:
    """Whoever has protected the instance meanwhile wants to keep it."""
    repository_id = work.job.subject.removeprefix("restore-test:")
    repository = tx.get(BackupRepository, work.job.scope, repository_id)
    scratch = None if repository is None else scratch_of(tx, repository)
    if scratch is None or scratch.change == "deleting" or scratch.deletion_protection:
        return
    request = {"DBInstanceIdentifier": scratch.db_instance_identifier, "SkipFinalSnapshot": True}
    delete_db_instance(internal_call(tx, work.tools, work.job.scope), request)


async def _await_deleted(work: Work) -> Outcome:
    """Whoever waits for the test sees its end when nothing is left of it."""
    repository_id = work.job.subject.removeprefix("restore-test:")
    with work.tools.store.read() as view:
        repository = view.get(BackupRepository, work.job.scope, repository_id)
        scratch = None if repository is None else scratch_of(view, repository)
    return Finish() if scratch is None or scratch.change != "deleting" else Sleep(OBSERVE_AGAIN_S)


def _failed(work: Work, error: Permanent) -> Finish:
    """It could not be begun, or something else stood in the way; what there is of the copy goes."""
    moment = work.job.frame.get("moment")
    proof = proof_of(at=work.tools.clock.wall(), since=work.job.created_at, moment=moment, failure=error.message)

    def record(tx: Transaction) -> None:
        if work.job.step not in ("delete", "await_deleted"):  # else it is known what the test came to
            _record(work, tx, proof)
        try:
            _begin_deletion(work, tx)
        except ApiError as refused:
            log.error("restore_test.not_deleted", subject=work.job.subject, error=refused.message)

    return Finish(record)


def _tell_overdue(work: Work, _tx: Transaction) -> None:
    """The test goes on, or waits for its copy to go."""
    log.error("restore_test.late", subject=work.job.subject, step=work.job.step)


RESTORE_TEST = Program(
    name=PROGRAM,
    first=FIRST_STEP,
    steps={
        "restore": Step(_restore, successors=("await_available",)),
        "await_available": Step(_await_available, successors=("check", "delete")),
        "check": Step(_check, successors=("await_outcome", "delete")),
        "await_outcome": Step(_await_outcome, successors=("check", "forget_failed_job", "delete")),
        "forget_failed_job": Step(_forget_failed_job, successors=("await_available",)),
        "delete": Step(_delete, successors=("await_deleted",)),
        "await_deleted": Step(_await_deleted),
    },
    deadline_s=DEADLINE_S,
    failed=_failed,
    overdue=_tell_overdue,
)
