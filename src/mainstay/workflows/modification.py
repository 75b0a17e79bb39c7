"""Putting accepted changes of a DB instance into force: from the API at once, or from the maintenance window.

Source: RDS user guide, "Modifying an Amazon RDS DB instance" (which setting acts when, and which restarts the engine).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mainstay.host.clock import Clock
from mainstay.host.randomness import HEX, Randomness
from mainstay.model.db_instance import DBInstance, PendingModification
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.model.errors import ApiError
from mainstay.services.rds.events import record_instance_event
from mainstay.store import Transaction
from mainstay.workflows.automated_backups import (
    backup_record,
    begin_automated_backups,
    end_automated_backups,
    reschedule,
)
from mainstay.workflows.db_instances import MODIFY, restarted
from mainstay.workflows.engine import new_job
from mainstay.workflows.repositories import Makings
from mainstay.workflows.subnet_moves import moved

# Field of PendingModification -> the field of DBInstance it replaces. The identifier and the subnet group move more.
_DIRECT = (
    "db_instance_class", "allocated_storage_gib", "engine_version", "storage_type", "iops", "storage_throughput",
    "ca_certificate_identifier", "option_group_name", "multi_az",
    "iam_database_authentication_enabled", "backup_retention_period_days",
)  # fmt: skip
NODE_ID_CHARACTERS = 17
CHANGED = "changed"
"""In the frame of the workflow's job: which fields of `PendingModification` it puts into force."""

_RESTARTS = frozenset({"db_instance_class", "engine_version", "db_instance_identifier"})
_STARTED = {"db_instance_class": "RDS-EVENT-0012", "allocated_storage_gib": "RDS-EVENT-0018",
            "autoscaled": "RDS-EVENT-0217", "multi_az": "RDS-EVENT-0024", "single_az": "RDS-EVENT-0030"}  # fmt: skip
_FINISHED = {"db_instance_class": "RDS-EVENT-0014", "allocated_storage_gib": "RDS-EVENT-0017",
             "autoscaled": "RDS-EVENT-0218", "engine_version": "RDS-EVENT-0047", "multi_az": "RDS-EVENT-0025",
             "single_az": "RDS-EVENT-0029", "backups_on": "RDS-EVENT-0032",
             "backups_off": "RDS-EVENT-0028"}  # fmt: skip


def put_into_force(
    tx: Transaction,
    clock: Clock,
    makings: Makings,
    before: DBInstance,
    after: DBInstance,
    *,
    restart: bool = False,
    by_itself: bool = False,
) -> DBInstance:
    """Applies `after.pending` to the instance and starts the workflow that brings its node there.

    `before` is the record as stored, `after` the same with immediate changes made. `restart` asks for a restart even if
    nothing in `pending` needs one. `by_itself`: nobody asked for it. Returns the stored record.
    """
    pending = _without_taken_name(tx, clock, after)
    changed = [name for name in msgspec.structs.asdict(pending) if getattr(pending, name) is not None]
    instance = msgspec.structs.replace(after, pending=PendingModification())
    instance = msgspec.structs.replace(
        instance, **{name: getattr(pending, name) for name in changed if name in _DIRECT}
    )
    if pending.db_instance_identifier is not None:
        instance = msgspec.structs.replace(instance, db_instance_identifier=pending.db_instance_identifier)
    instance = moved(tx, clock, makings.randomness, instance, pending)
    leaves_vpc = instance.vpc_id != after.vpc_id
    if pending.multi_az:
        instance = with_standby(tx, makings.randomness, instance)
    if pending.backup_retention_period_days is not None:
        instance = _with_backups_switched(tx, makings, instance)
    if restart or leaves_vpc or _RESTARTS.intersection(changed):  # nobody of the old network stays connected
        instance = restarted(instance, rolling=True)
    if "allocated_storage_gib" in changed:  # where volumes only grow without their engine: the standby's first
        instance = msgspec.structs.replace(instance, rolling=True, storage_changed_at=clock.wall())
    renamed = instance.db_instance_identifier != before.db_instance_identifier
    word = "renaming" if renamed else "moving-to-vpc" if leaves_vpc else _word(before, after, changed)
    instance = msgspec.structs.replace(instance, change=word)
    if renamed:
        tx.delete(before)
        tx.insert(instance)
        reschedule(tx, makings.randomness, makings.now, instance)
    else:
        tx.put(instance)
    for name in changed:
        if (started := _event(_STARTED, name, pending, by_itself)) is not None:
            record_instance_event(tx, clock, instance, started)
    finished = [event for name in changed if (event := _event(_FINISHED, name, pending, by_itself))]
    subject = f"db:{instance.dbi_resource_id}"
    for job in tx.jobs(subject):
        if job.program == MODIFY.name:
            tx.finish_job(job)
    frame = {"finished_events": finished, CHANGED: changed}
    tx.add_job(new_job(MODIFY, subject, instance.scope, clock.wall(), frame))
    return instance


def _event(events: Mapping[str, str], name: str, pending: PendingModification, by_itself: bool) -> str | None:
    if name == "allocated_storage_gib" and by_itself:
        return events["autoscaled"]
    if name == "multi_az" and not pending.multi_az:
        return events.get("single_az")
    if name == "backup_retention_period_days":
        return events.get("backups_on" if pending.backup_retention_period_days else "backups_off")
    return events.get(name)


def _with_backups_switched(tx: Transaction, makings: Makings, instance: DBInstance) -> DBInstance:
    """Turned off, every automated backup goes at once (RDS user guide, "Disabling automated backups")."""
    backup = backup_record(tx, instance)
    if instance.backup_retention_period_days:
        return begin_automated_backups(tx, makings, instance) if backup is None else instance
    if backup is not None:
        end_automated_backups(tx, makings.now, backup)
    return instance


def with_standby(tx: Transaction, randomness: Randomness, instance: DBInstance) -> DBInstance:
    """The instance with a node more, in another zone of its subnet group. Raises `ApiError` if it covers one only."""
    if instance.standby_node_id:
        return instance
    group = tx.get(DBSubnetGroup, instance.scope, instance.db_subnet_group_name)
    others = [one for one in group.subnets if one.availability_zone != instance.availability_zone] if group else []
    if not others:
        raise ApiError(
            "DBSubnetGroupDoesNotCoverEnoughAZs",
            f"DB Subnet Group {instance.db_subnet_group_name} covers one availability zone only; a standby needs"
            " another.",
        )
    chosen = others[randomness.below(len(others))]
    kept = [msgspec.structs.replace(one, node_id=one.node_id or instance.node_id) for one in instance.kept_data]
    return msgspec.structs.replace(
        instance,
        kept_data=tuple(kept),
        standby_node_id="node-" + randomness.text(NODE_ID_CHARACTERS, HEX),
        standby_subnet_id=chosen.subnet_id,
        secondary_availability_zone=chosen.availability_zone,
    )


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
