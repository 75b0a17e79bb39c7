"""What happens to a KMS key by itself: it is deleted when its waiting period ends, and rotated when its period does."""

from __future__ import annotations

import msgspec

from mainstay.model.kms import AUTOMATIC, KeyState, KmsKey
from mainstay.services.kms.ciphertexts import new_material
from mainstay.services.kms.deletion import delete_key_now
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, new_job
from mainstay.workflows.timers import keep_timer, never_late, stays_as_it_is

DAY_S = 24 * 3600.0


def start_deletion_timer(tx: Transaction, key: KmsKey, now: float) -> None:
    """The job that deletes a key which is pending deletion."""
    due_at = key.deletion_at or now
    job = new_job(DELETE_KEY, key.subject, key.scope, now)
    tx.add_job(msgspec.structs.replace(job, due_at=due_at, deadline_at=due_at + DELETE_KEY.deadline_s))


def stop_deletion_timer(tx: Transaction, key: KmsKey) -> None:
    """No deletion any more."""
    for job in tx.jobs(key.subject):
        if job.program == DELETE_KEY.name:
            tx.finish_job(job)


def keep_rotation_timer(tx: Transaction, key: KmsKey, now: float) -> None:
    """Makes the rotation timer agree with the key: there if it is to be rotated by itself, gone otherwise."""
    due_at = key.next_rotation_at if _rotates(key) else None
    keep_timer(tx, AWAIT_KEY_ROTATION, key.subject, key.scope, due_at, now)


def _rotates(key: KmsKey) -> bool:
    """A disabled key is not rotated; if its time comes meanwhile it is rotated when it is enabled again, as on AWS."""
    return key.rotation_enabled and key.state is KeyState.ENABLED


def _key_of(reader: Reader, work: Work) -> KmsKey | None:
    return reader.get(KmsKey, work.job.scope, work.job.subject.rpartition("/")[2])


async def _await_rotation(work: Work) -> Outcome:
    tools = work.tools
    now = tools.clock.wall()
    with tools.store.read() as view:
        key = _key_of(view, work)
    if key is None or not _rotates(key) or key.next_rotation_at is None or key.rotation_period_days is None:
        return Finish()
    if now < key.next_rotation_at:
        return Sleep(key.next_rotation_at - now)
    version = key.current.version + 1
    material = new_material(tools.vault, tools.randomness, key.arn, version, now, AUTOMATIC)
    period_s = key.rotation_period_days * DAY_S
    # After a long standstill the key is rotated once, and its period begins anew.
    upcoming = key.next_rotation_at + period_s if now < key.next_rotation_at + period_s else now + period_s
    rotated = msgspec.structs.replace(key, materials=(*key.materials, material), next_rotation_at=upcoming)
    return Next("await_rotation", lambda tx: _put_rotated(tx, key, rotated))


def _put_rotated(tx: Transaction, seen: KmsKey, rotated: KmsKey) -> None:
    """Records the rotation unless the key was changed meanwhile; then the step, run again, looks again."""
    if tx.get(KmsKey, seen.scope, seen.key_id) == seen:
        tx.put(rotated)


async def _delete(work: Work) -> Outcome:
    tools = work.tools
    now = tools.clock.wall()
    with tools.store.read() as view:
        key = _key_of(view, work)
    if key is None or key.state is not KeyState.PENDING_DELETION or key.deletion_at is None:
        return Finish()
    if now < key.deletion_at:
        return Sleep(key.deletion_at - now)
    return Finish(lambda tx: delete_key_now(tx, key))


DELETE_KEY = Program(
    name="delete_kms_key",
    first="delete",
    steps={"delete": Step(_delete)},
    deadline_s=DAY_S,
    failed=stays_as_it_is,
    overdue=never_late,
)
AWAIT_KEY_ROTATION = Program(
    name="await_kms_key_rotation",
    first="await_rotation",
    steps={"await_rotation": Step(_await_rotation, successors=("await_rotation",))},
    deadline_s=30 * DAY_S,
    failed=stays_as_it_is,
    overdue=never_late,
)
