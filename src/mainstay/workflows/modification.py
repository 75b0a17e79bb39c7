"""Putting accepted changes of a DB instance into force: from the API at once, or from the maintenance window.

Source: RDS user guide, "Modifying an Amazon RDS DB instance" (which setting acts when, and which restarts the engine).
"""

from __future__ import annotations

import msgspec

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance, PendingModification
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.services.rds.events import record_instance_event
from mainstay.store import Transaction
from mainstay.workflows.db_instances import MODIFY, restarted
from mainstay.workflows.engine import new_job

# Field of PendingModification -> the field of DBInstance it replaces. The identifier and the subnet group move more.
_DIRECT = (
    "db_instance_class", "allocated_storage_gib", "engine_version", "storage_type", "iops", "storage_throughput",
    "ca_certificate_identifier", "option_group_name",
)  # fmt: skip
_RESTARTS = frozenset({"db_instance_class", "engine_version", "db_instance_identifier"})
_STARTED = {"db_instance_class": "RDS-EVENT-0012", "allocated_storage_gib": "RDS-EVENT-0018"}
_FINISHED = {"db_instance_class": "RDS-EVENT-0014", "allocated_storage_gib": "RDS-EVENT-0017",
             "engine_version": "RDS-EVENT-0047"}  # fmt: skip


def put_into_force(
    tx: Transaction, clock: Clock, before: DBInstance, after: DBInstance, *, restart: bool = False
) -> DBInstance:
    """Applies `after.pending` to the instance and starts the workflow that brings its node there.

    `before` is the record as stored, `after` the same with immediate changes made. `restart` asks for a restart even if
    nothing in `pending` needs one. Returns the stored record.
    """
    pending = _without_taken_name(tx, clock, after)
    changed = [name for name in msgspec.structs.asdict(pending) if getattr(pending, name) is not None]
    instance = msgspec.structs.replace(after, pending=PendingModification())
    instance = msgspec.structs.replace(
        instance, **{name: getattr(pending, name) for name in changed if name in _DIRECT}
    )
    instance = _moved(tx, instance, pending)
    if restart or _RESTARTS.intersection(changed):
        instance = restarted(instance)
    renamed = instance.db_instance_identifier != before.db_instance_identifier
    instance = msgspec.structs.replace(instance, change="renaming" if renamed else _word(before, after, changed))
    if renamed:
        tx.delete(before)
        tx.insert(instance)
    else:
        tx.put(instance)
    for name in changed:
        if name in _STARTED:
            record_instance_event(tx, clock, instance, _STARTED[name])
    finished = [_FINISHED[name] for name in changed if name in _FINISHED]
    subject = f"db:{instance.dbi_resource_id}"
    for job in tx.jobs(subject):
        if job.program == MODIFY.name:
            tx.finish_job(job)
    tx.add_job(new_job(MODIFY, subject, instance.scope, clock.wall(), {"finished_events": finished}))
    return instance


def _without_taken_name(tx: Transaction, clock: Clock, instance: DBInstance) -> PendingModification:
    """What is pending, less a new name that another instance has got since: a person is told, the rest goes on."""
    name = instance.pending.db_instance_identifier
    other = None if name is None else tx.get(DBInstance, instance.scope, name)
    if other is None or other.dbi_resource_id == instance.dbi_resource_id:
        return instance.pending
    reason = f"The DB instance was not renamed: there is another one named {name}."
    record_instance_event(tx, clock, instance, "RDS-EVENT-0044", reason=reason)
    return msgspec.structs.replace(instance.pending, db_instance_identifier=None)


def _word(before: DBInstance, after: DBInstance, changed: list[str]) -> str:
    if "engine_version" in changed:
        return "upgrading"
    only_password = not changed and before.master_password_verifier != after.master_password_verifier
    return "resetting-master-credentials" if only_password else "modifying"


def _moved(tx: Transaction, instance: DBInstance, pending: PendingModification) -> DBInstance:
    """The new name and the new subnet group, which change more than one field."""
    if pending.db_instance_identifier is not None:
        instance = msgspec.structs.replace(instance, db_instance_identifier=pending.db_instance_identifier)
    if pending.db_subnet_group_name is not None:
        group = tx.get(DBSubnetGroup, instance.scope, pending.db_subnet_group_name)
        if group is not None:
            here = next((one for one in group.subnets if one.availability_zone == instance.availability_zone), None)
            chosen = here or group.subnets[0]
            instance = msgspec.structs.replace(
                instance,
                db_subnet_group_name=group.db_subnet_group_name,
                subnet_id=chosen.subnet_id,
                availability_zone=chosen.availability_zone,
            )
    return instance
