"""Reboot, stop, start and delete. Source: RDS user guide, chapters of these names; texts as RDS gives them."""

from __future__ import annotations

import msgspec

from mainstay.decide.db_instance_status import accepts_changes
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.model.node import NodeTarget
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.db_instances import find_instance, require_available
from mainstay.services.rds.demands import on
from mainstay.services.rds.events import record_instance_event
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.table import handles
from mainstay.workflows.db_instances import REBOOT, START, STOP, restarted
from mainstay.workflows.delete_db_instance import DELETE
from mainstay.workflows.engine import Program, new_job
from mainstay.workflows.restart_stopped_db_instance import RESTART_STOPPED

SNAPSHOTS_MISSING = "DB snapshots: not available in this version of Mainstay."


def begin(call: Call, instance: DBInstance, program: Program, change: str) -> Result:
    """Records the instance under its status word and starts the workflow; answers with the instance."""
    instance = msgspec.structs.replace(instance, change=change)
    call.tx.put(instance)
    call.tx.add_job(new_job(program, f"db:{instance.dbi_resource_id}", call.scope, call.clock.wall()))
    return {"DBInstance": InstanceView(call).show(instance)}


@handles("RebootDBInstance", on("db", "DBInstanceIdentifier"))
def reboot_db_instance(call: Call, request: Request) -> Result:
    """Restarts the engine; everything that waited for a reboot comes into force."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    if request.get("ForceFailover"):
        raise invalid_combination("Reboot with failover is only supported for Multi-AZ DB instances.")
    if not accepts_changes(InstanceView(call).status(instance)):
        raise ApiError(
            "InvalidDBInstanceStateFault",
            "Instance cannot currently reboot due to an in-progress management operation.",
        )
    record_instance_event(call.tx, call.clock, instance, "RDS-EVENT-0004")
    return begin(call, restarted(instance), REBOOT, "rebooting")


@handles("StopDBInstance", on("db", "DBInstanceIdentifier"))
def stop_db_instance(call: Call, request: Request) -> Result:
    """Stops the engine for at most seven days; storage, endpoint and identity stay."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    if request.get("DBSnapshotIdentifier"):
        raise invalid_combination(SNAPSHOTS_MISSING + " Leave DBSnapshotIdentifier out of the request.")
    require_available(call, instance)
    result = begin(call, msgspec.structs.replace(instance, target=NodeTarget.STOPPED), STOP, "stopping")
    _forget_restart(call, instance)
    later = new_job(RESTART_STOPPED, f"db:{instance.dbi_resource_id}", call.scope, call.clock.wall())
    call.tx.add_job(later)
    return result


@handles("StartDBInstance", on("db", "DBInstanceIdentifier"))
def start_db_instance(call: Call, request: Request) -> Result:
    """Starts a stopped instance."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    if InstanceView(call).status(instance) != "stopped":
        raise ApiError(
            "InvalidDBInstanceStateFault", f"Instance {instance.db_instance_identifier} is not in stopped state."
        )
    _forget_restart(call, instance)
    return begin(call, restarted(instance), START, "starting")


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
    _check_final_snapshot(request)
    for job in call.tx.jobs(f"db:{instance.dbi_resource_id}"):
        call.tx.finish_job(job)
    return begin(call, msgspec.structs.replace(instance, target=NodeTarget.ABSENT), DELETE, "deleting")


def _check_final_snapshot(request: Request) -> None:
    skip, name = request.get("SkipFinalSnapshot", False), request.get("FinalDBSnapshotIdentifier")
    if skip and name:
        raise invalid_combination("FinalDBSnapshotIdentifier cannot be specified when SkipFinalSnapshot is true.")
    if not skip and not name:
        raise invalid_combination("FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified.")
    if name:
        raise invalid_combination(SNAPSHOTS_MISSING + " Specify SkipFinalSnapshot to delete without one.")
