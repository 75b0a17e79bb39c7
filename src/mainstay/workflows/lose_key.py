"""What becomes of an encrypted instance whose KMS key is not enabled any more: locked at once, lost after seven days.

Guarantees: when the instance is recorded as having lost its key, its status says so, and nothing opens its data key
until StartDBInstance has found the KMS key enabled again; the keys that its agents have are taken from them, again and
again until each has confirmed it. Source: RDS user guide, "Encrypting Amazon RDS resources".

Other than on RDS an instance without automated backups can be started again after seven days too: its data is still
there, and it has nothing else to be restored from.
"""

from __future__ import annotations

import msgspec

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeTarget
from mainstay.services.rds.events import record_event
from mainstay.store import Reader, Transaction
from mainstay.workflows.converge import fail, tell_overdue
from mainstay.workflows.db_instances import FAILOVER, MODIFY, REBOOT, START, STOP
from mainstay.workflows.encryption import is_usable
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, new_job
from mainstay.workflows.node_specs import instance_of, refresh_nodes, with_private_key
from mainstay.workflows.restart_stopped_db_instance import RESTART_STOPPED

LOCK_AGAIN_S = 5.0
RECOVERABLE_S = 7 * 24 * 3600.0
_ENDED = frozenset(program.name for program in (FAILOVER, MODIFY, REBOOT, START, STOP, RESTART_STOPPED))
"""Changes that wait for a running engine; what they were to bring about comes into force with the next start."""


def has_lost_key(reader: Reader, instance: DBInstance) -> bool:
    """Whether the instance's KMS key is not enabled and that is not recorded yet.

    One that is being created waits for its key, one that is being deleted needs none.
    """
    if not instance.storage_encrypted or instance.key_lost_at is not None:
        return False
    if instance.exchange is not None:  # as one that is being created: first it is whole again
        return False
    return instance.change not in ("creating", "deleting") and not is_usable(reader, instance.kms_key_id)


def lose_key(tx: Transaction, clock: Clock, instance: DBInstance) -> None:
    """Records the loss, ends what waits for the engine, and starts the program that locks the nodes."""
    now, subject = clock.wall(), f"db:{instance.dbi_resource_id}"
    for job in tx.jobs(subject):
        if job.program in _ENDED:
            tx.finish_job(job)
    tx.put(
        msgspec.structs.replace(
            instance, key_lost_at=now, target=NodeTarget.STOPPED, change="", automatic_restart_at=None
        )
    )
    reason = (
        f"The KMS key {instance.kms_key_id} is not enabled any more: this DB instance is stopped and its data locked."
        " Enable the key and start the DB instance"
        + (" within seven days." if instance.backup_retention_period_days else ".")
    )
    record_event(tx, clock, instance, "MAINSTAY-EVENT-0001", reason=reason)
    tx.add_job(new_job(LOSE_KEY, subject, instance.scope, now))


def key_found(tx: Transaction, instance: DBInstance) -> DBInstance:
    """The instance, not recorded, as it is when its key may be opened again; nothing waits for its end any more."""
    for job in tx.jobs(f"db:{instance.dbi_resource_id}"):
        if job.program == LOSE_KEY.name:
            tx.finish_job(job)
    return msgspec.structs.replace(instance, key_lost_at=None, key_lost_for_good=False)


async def _lock(work: Work) -> Outcome:
    """The one that leads last: its standby must not take over first."""
    tools = work.tools
    with tools.store.transaction() as tx:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is None or instance.key_lost_at is None:
            return Finish()
        specs = refresh_nodes(tx, tools, instance)
    try:
        for spec in reversed(specs):
            if tools.fleet.observe(spec.node_id) is not None:
                await tools.fleet.lock(spec.node_id)
    except Permanent as error:  # whatever it is, a key is not left where it is for that
        raise Transient(error.message, retry_after_s=LOCK_AGAIN_S) from error
    for spec in specs:
        await tools.fleet.put_node(with_private_key(spec, tools))
    return Next("await_time")


async def _await_time(work: Work) -> Outcome:
    tools = work.tools
    now = tools.clock.wall()
    with tools.store.read() as view:
        instance = instance_of(view, work.job.scope, work.job.subject)
    if instance is None or instance.key_lost_at is None or not instance.backup_retention_period_days:
        return Finish()
    if now < instance.key_lost_at + RECOVERABLE_S:
        return Sleep(instance.key_lost_at + RECOVERABLE_S - now)

    def record(tx: Transaction) -> None:
        tx.put(msgspec.structs.replace(instance, key_lost_for_good=True))
        reason = (
            "The KMS key of this DB instance was not given back within seven days: it can only be restored from a"
            " backup, and deleted."
        )
        record_event(tx, tools.clock, instance, "MAINSTAY-EVENT-0001", reason=reason)

    return Finish(record)


LOSE_KEY = Program(
    name="lose_key",
    first="lock",
    steps={"lock": Step(_lock, successors=("await_time",)), "await_time": Step(_await_time)},
    deadline_s=2 * RECOVERABLE_S,
    failed=fail,
    overdue=tell_overdue,
)
