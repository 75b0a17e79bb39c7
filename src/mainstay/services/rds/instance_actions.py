"""Reboot, stop, start and delete. Source: RDS user guide, chapters of these names; texts as RDS gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.decide.db_instance_status import INACCESSIBLE, accepts_changes
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import RETAINED, DBInstanceAutomatedBackup
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.model.node import NodePhase
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.db_instances import find_instance, require_available
from mainstay.services.rds.db_snapshots import new_snapshot
from mainstay.services.rds.demands import on
from mainstay.services.rds.events import record_instance_event
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.quotas import RETAINED_AUTOMATED_BACKUPS, require_room
from mainstay.services.rds.table import handles
from mainstay.workflows.db_instances import FAILOVER, REBOOT, START, STOP, restarted
from mainstay.workflows.delete_db_instance import DELETE
from mainstay.workflows.encryption import require_key
from mainstay.workflows.engine import Program, new_job
from mainstay.workflows.fleet import Fleet, last_seen_leader
from mainstay.workflows.lose_key import key_found
from mainstay.workflows.node_specs import replicas_of
from mainstay.workflows.restart_stopped_db_instance import RESTART_STOPPED

# Instances in these states have no engine to take a final snapshot from, and some never will.
_NO_SNAPSHOT = frozenset({"creating", "stopping", "stopped", "starting"})


def begin(
    call: Call, instance: DBInstance, program: Program, change: str, frame: Mapping[str, Any] | None = None
) -> Result:
    """Records the instance under its status word and starts the workflow; answers with the instance."""
    instance = msgspec.structs.replace(instance, change=change)
    call.tx.put(instance)
    call.tx.add_job(new_job(program, f"db:{instance.dbi_resource_id}", call.scope, call.clock.wall(), frame))
    return {"DBInstance": InstanceView(call).show(instance)}


@handles("RebootDBInstance", on("db", "DBInstanceIdentifier"))
def reboot_db_instance(call: Call, request: Request) -> Result:
    """Restarts the engine; everything that waited for a reboot comes into force."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    failover = request.get("ForceFailover", False)
    if failover and not instance.multi_az:
        raise invalid_combination("Reboot with failover is only supported for Multi-AZ DB instances.")
    if not accepts_changes(InstanceView(call).status(instance)):
        raise ApiError(
            "InvalidDBInstanceStateFault",
            "Instance cannot currently reboot due to an in-progress management operation.",
        )
    if failover:
        return begin(call, _failing_over(instance), FAILOVER, "rebooting")
    record_instance_event(call.tx, call.clock, instance, "RDS-EVENT-0004")
    return begin(call, restarted(instance), REBOOT, "rebooting")


def _failing_over(instance: DBInstance) -> DBInstance:
    """The standby takes over as it is; if anything waited for a reboot, it is started anew with that before."""
    waiting = instance.held_parameters or instance.parameter_group_in_force != instance.db_parameter_group_name
    if waiting:
        instance = restarted(instance, rolling=True)
    return msgspec.structs.replace(instance, failover_token=instance.failover_token + 1)


@handles("StopDBInstance", on("db", "DBInstanceIdentifier"))
def stop_db_instance(call: Call, request: Request) -> Result:
    """Stops the engine for at most seven days; storage, endpoint and identity stay."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    if instance.source_dbi_resource_id:
        raise ApiError("InvalidDBInstanceStateFault", "Cannot stop or start a Read-Replica instance")
    if replicas_of(call.tx, instance):
        raise ApiError("InvalidDBInstanceStateFault", "Cannot stop or start an instance that has Read-Replicas")
    require_available(call, instance)
    instance, frame = _with_last_snapshot(call, instance, request, "DBSnapshotIdentifier")
    result = begin(call, instance, STOP, "stopping", frame)
    _forget_restart(call, instance)
    later = new_job(RESTART_STOPPED, f"db:{instance.dbi_resource_id}", call.scope, call.clock.wall())
    call.tx.add_job(later)
    return result


def _with_last_snapshot(
    call: Call, instance: DBInstance, request: Request, member: str
) -> tuple[DBInstance, dict[str, Any]]:
    """Begins the snapshot that the member names, if it does; with what the workflow must remember of it."""
    name = request.get(member)
    if not name:
        return instance, {}
    tags = instance.tags if instance.copy_tags_to_snapshot else {}
    instance, row = new_snapshot(call, instance, name, tags, member)
    return instance, {"last_snapshot": row.db_snapshot_identifier}


@handles("StartDBInstance", on("db", "DBInstanceIdentifier"))
def start_db_instance(call: Call, request: Request) -> Result:
    """Starts a stopped instance, or one that had lost its KMS key and has it again."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    if instance.key_lost_at is not None and instance.change != "deleting":
        instance = _with_key(call, instance)
    elif InstanceView(call).status(instance) != "stopped":
        raise ApiError(
            "InvalidDBInstanceStateFault", f"Instance {instance.db_instance_identifier} is not in stopped state."
        )
    if instance.storage_encrypted:
        require_key(call.tx, instance.kms_key_id)
    _forget_restart(call, instance)
    return begin(call, restarted(instance), START, "starting")


def _with_key(call: Call, instance: DBInstance) -> DBInstance:
    """The instance as it is when its KMS key is enabled again, in time."""
    if instance.key_lost_for_good:
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"Instance {instance.db_instance_identifier} is in the {INACCESSIBLE} state: its KMS key was not enabled"
            " for more than seven days. Restore it from a backup.",
        )
    require_key(call.tx, instance.kms_key_id)
    return key_found(call.tx, instance)


def _forget_restart(call: Call, instance: DBInstance) -> None:
    """Ends the wait for the automatic restart of an earlier stop, if there is one."""
    for job in call.tx.jobs(f"db:{instance.dbi_resource_id}"):
        if job.program == RESTART_STOPPED.name:
            call.tx.finish_job(job)


@handles("DeleteDBInstance", on("db", "DBInstanceIdentifier"))
def delete_db_instance(call: Call, request: Request) -> Result:
    """Deletes the instance and its data; whatever else was under way for it ends."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    if instance.change == "deleting":
        raise ApiError(
            "InvalidDBInstanceStateFault", f"Instance {instance.db_instance_identifier} is already being deleted."
        )
    if instance.deletion_protection:
        raise invalid_combination(
            "Cannot delete protected DB Instance, please disable deletion protection and try again."
        )
    if instance.source_dbi_resource_id and request.get("FinalDBSnapshotIdentifier"):
        raise invalid_combination("FinalDBSnapshotIdentifier can not be specified when deleting a replica instance")
    _check_final_snapshot(call, instance, request)
    _require_complete_replicas(call, instance)
    retain = not request.get("DeleteAutomatedBackups", True)
    if retain:
        _require_room_for_retained(call)
    for job in call.tx.jobs(f"db:{instance.dbi_resource_id}"):
        call.tx.finish_job(job)
    instance, frame = _with_last_snapshot(call, instance, request, "FinalDBSnapshotIdentifier")
    return begin(call, instance, DELETE, "deleting", frame | {"retain_automated_backups": retain})


def _require_room_for_retained(call: Call) -> None:
    retained = [one for one in call.tx.scan(DBInstanceAutomatedBackup, call.scope) if one.status == RETAINED]
    require_room(
        len(retained), RETAINED_AUTOMATED_BACKUPS, "DBInstanceAutomatedBackupQuotaExceededFault",
        "retained automated backups",
    )  # fmt: skip


def _require_complete_replicas(call: Call, instance: DBInstance) -> None:
    """A replica that is being copied from this instance has nothing to go on with yet."""
    for replica in replicas_of(call.tx, instance):
        if replica.change == "creating":
            raise ApiError(
                "InvalidDBInstanceStateFault",
                f"Instance {instance.db_instance_identifier} cannot be deleted while the read replica"
                f" {replica.db_instance_identifier} is being created from it.",
            )


def _check_final_snapshot(call: Call, instance: DBInstance, request: Request) -> None:
    skip, name = request.get("SkipFinalSnapshot", False), request.get("FinalDBSnapshotIdentifier")
    if skip and name:
        raise invalid_combination("FinalDBSnapshotIdentifier cannot be specified when SkipFinalSnapshot is true.")
    if not skip and not name:
        raise invalid_combination("FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified.")
    status = InstanceView(call).status(instance)
    if name and (status in _NO_SNAPSHOT or not last_seen_running(call, instance)):
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"Cannot create a final snapshot of {instance.db_instance_identifier} because it is in the {status} state."
            " Start it first, or specify SkipFinalSnapshot.",
        )


def last_seen_running(call: Call, instance: DBInstance) -> bool:
    """Whether the engine that leads was running when last seen."""
    fleet = call.use(Fleet)  # type: ignore[type-abstract]  # the Protocol is the key of the collaborator
    seen = last_seen_leader(fleet, instance)
    return seen is not None and seen.phase is NodePhase.RUNNING
