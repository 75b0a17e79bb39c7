"""ModifyDBInstance: what acts at once, what waits for the maintenance window, and what is refused.

Source: RDS API reference, ModifyDBInstance; RDS user guide, "Available settings".
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.db_instance_status import accepts_changes
from mainstay.decide.identifiers import check_db_instance_identifier
from mainstay.engines.base import EngineRules
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance, PendingModification
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.services.ec2.changes import notify
from mainstay.services.ec2.interfaces import set_interface_groups
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.backup_settings import makings, retention_period
from mainstay.services.rds.create_db_instance import (
    check_authority,
    check_port,
    chosen_option_group,
    chosen_parameter_group,
    resolve_build,
    verifier_of,
    windows,
)
from mainstay.services.rds.db_instances import find_instance
from mainstay.services.rds.demands import on
from mainstay.services.rds.engine_versions import require_upgradable
from mainstay.services.rds.events import record_instance_event
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.master_secret import change_master_secret, check_master_changes
from mainstay.services.rds.placement import public_access, require_capacity, security_groups, standby_zone
from mainstay.services.rds.read_replicas import all_replicas_of
from mainstay.services.rds.refresh import request_refresh
from mainstay.services.rds.storage import autoscaling_maximum, modified_storage
from mainstay.services.rds.subnet_groups import require_subnet_group
from mainstay.services.rds.subnet_moves import requested_move
from mainstay.services.rds.table import handles
from mainstay.services.rds.unbuilt import refuse_lacking, refuse_unbuilt, refuse_unbuilt_of
from mainstay.workflows.apply_pending_modifications import APPLY_PENDING
from mainstay.workflows.automated_backups import reschedule
from mainstay.workflows.engine import new_job
from mainstay.workflows.modification import put_into_force
from mainstay.workflows.node_specs import replicas_of


@handles(
    "ModifyDBInstance",
    on("db", "DBInstanceIdentifier"),
    on("pg", "DBParameterGroupName", optional=True),
    on("og", "OptionGroupName", optional=True),
    on("subgrp", "DBSubnetGroupName", optional=True),
)
def modify_db_instance(call: Call, request: Request) -> Result:
    """Accepts the changes: immediate ones are in force when the status is available again, others are shown pending."""
    before = find_instance(call, request["DBInstanceIdentifier"])
    refuse_unbuilt(request)
    view = InstanceView(call)
    if not accepts_changes(view.status(before)):
        raise ApiError(
            "InvalidDBInstanceStateFault", f"Instance {before.db_instance_identifier} is not in available state."
        )
    check_master_changes(call, before, request, view.status(before))
    if "MasterUserPassword" in request and before.source_dbi_resource_id:
        raise invalid_combination(
            f"Cannot change master user password on an RDS {before.engine} Read Replica because it uses physical"
            " replication and therefore cannot differ from its parent."
        )
    rules = call.use(Engines).rules(before.engine)
    _require_same_engine(before, request)
    refuse_unbuilt_of(rules, request)
    move = requested_move(call, before, request)
    if move.get("vpc_security_group_ids"):  # they are of the new VPC, and the instance is in the old one until it moves
        request = {member: value for member, value in request.items() if member != "VpcSecurityGroupIds"}
    after = _immediate(call, rules, before, request)
    after = msgspec.structs.replace(after, pending=_deferrable(call, rules, before, request, move))
    if request.get("ApplyImmediately", False) and after.pending:
        stored = put_into_force(call.tx, call.clock, makings(call), before, after, restart=_restarts(before, after))
    elif _touches_node(before, after):
        held = after.pending
        stored = put_into_force(
            call.tx, call.clock, makings(call), before, msgspec.structs.replace(after, pending=PendingModification()),
            restart=_restarts(before, after),
        )  # fmt: skip
        stored = msgspec.structs.replace(stored, pending=held)
        call.tx.put(stored)
    else:
        stored = after
        call.tx.put(stored)
    if stored.network_interface_id != before.network_interface_id:
        notify(call)
    _schedule(call, stored)
    reschedule(call.tx, call.randomness, call.clock.wall(), stored)
    if after.master_password_verifier != before.master_password_verifier:
        _tell_replicas(call, stored)
    stored = change_master_secret(call, stored, request)
    shown = view.show(stored)
    if "MasterUserPassword" in request:
        shown["PendingModifiedValues"] = {**shown["PendingModifiedValues"], "MasterUserPassword": "****"}
    return {"DBInstance": shown}


def _schedule(call: Call, instance: DBInstance) -> None:
    """Pending changes wait as a job of their own; a new maintenance window moves it."""
    subject = f"db:{instance.dbi_resource_id}"
    waiting = [job for job in call.tx.jobs(subject) if job.program == APPLY_PENDING.name]
    if instance.pending and not waiting:
        call.tx.add_job(new_job(APPLY_PENDING, subject, call.scope, call.clock.wall()))
    for job in waiting:
        call.tx.put_job(msgspec.structs.replace(job, due_at=call.clock.wall()))


def _tell_replicas(call: Call, source: DBInstance) -> None:
    """The new password reaches the replicas' engines by replication; their records must say the same."""
    for replica in all_replicas_of(call.tx, source):
        call.tx.put(msgspec.structs.replace(replica, master_password_verifier=source.master_password_verifier))
        request_refresh(call, replica)


def _restarts(before: DBInstance, after: DBInstance) -> bool:
    return before.port != after.port


def _touches_node(before: DBInstance, after: DBInstance) -> bool:
    return (
        before.port != after.port
        or before.master_password_verifier != after.master_password_verifier
        or before.vpc_security_group_ids != after.vpc_security_group_ids
    )


def _immediate(call: Call, rules: EngineRules, instance: DBInstance, request: Request) -> DBInstance:
    """The instance with every change made that RDS makes at once, whatever ApplyImmediately says."""
    changes: dict[str, Any] = {
        field: request[member]
        for member, field in (
            ("CopyTagsToSnapshot", "copy_tags_to_snapshot"),
            ("DeletionProtection", "deletion_protection"),
            ("AutoMinorVersionUpgrade", "auto_minor_version_upgrade"),
        )
        if member in request
    }
    if "DBPortNumber" in request:
        changes["port"] = check_port(request["DBPortNumber"])
    if "MasterUserPassword" in request:
        changes["master_password_verifier"] = verifier_of(
            call, rules, instance.master_username, request["MasterUserPassword"]
        )
        record_instance_event(call.tx, call.clock, instance, "RDS-EVENT-0016")
    if "PreferredBackupWindow" in request or "PreferredMaintenanceWindow" in request:
        present = {
            "PreferredBackupWindow": instance.preferred_backup_window,
            "PreferredMaintenanceWindow": instance.preferred_maintenance_window,
        }
        changes["preferred_backup_window"], changes["preferred_maintenance_window"] = windows(
            call, {**present, **request}
        )
    if instance.backup_retention_period_days and request.get("BackupRetentionPeriod"):
        changes["backup_retention_period_days"] = retention_period(request)
    if "VpcSecurityGroupIds" in request:
        changes["vpc_security_group_ids"] = security_groups(call, instance.vpc_id, request["VpcSecurityGroupIds"])
        set_interface_groups(call.tx, call.scope, instance.network_interface_id, changes["vpc_security_group_ids"])
        notify(call)
    if "PubliclyAccessible" in request:
        group = require_subnet_group(call.tx, call.scope, instance.db_subnet_group_name)
        changes["publicly_accessible"] = public_access(call, group, request["PubliclyAccessible"])
    if "MaxAllocatedStorage" in request or {"AllocatedStorage", "StorageType"} & set(request):
        changes["max_allocated_storage_gib"] = _autoscaling_maximum(instance, request)
    if "DBParameterGroupName" in request:
        build = resolve_build(call.use(Engines), rules, request.get("EngineVersion", instance.engine_version))
        changes["db_parameter_group_name"] = chosen_parameter_group(
            call, rules, build, request["DBParameterGroupName"].lower()
        )
    return msgspec.structs.replace(instance, **changes)


def _autoscaling_maximum(instance: DBInstance, request: Request) -> int | None:
    """MaxAllocatedStorage from now on: the value of AllocatedStorage turns autoscaling off.

    The present one must fit a new size or type too; what has grown to its maximum by itself is left alone.
    """
    after = modified_storage(instance, request)
    size, kind = after["allocated_storage_gib"], after["storage_type"]
    wanted = request.get("MaxAllocatedStorage")
    same = (size, kind) == (instance.allocated_storage_gib, instance.storage_type)
    if wanted is None and (same or instance.max_allocated_storage_gib is None):
        return instance.max_allocated_storage_gib
    if wanted is not None and wanted in (size, instance.allocated_storage_gib):
        return None
    return autoscaling_maximum(instance.engine, wanted or instance.max_allocated_storage_gib or 0, size, kind)


def _deferrable(
    call: Call, rules: EngineRules, instance: DBInstance, request: Request, move: dict[str, Any]
) -> PendingModification:
    """What is pending already and what this request adds; asking for the present value takes a pending one back."""
    changes = dict(move)
    if "DBInstanceClass" in request:
        multi_az = bool(request.get("MultiAZ", instance.multi_az))
        chosen = require_capacity(call, request["DBInstanceClass"], replaced=instance, multi_az=multi_az)
        changes["db_instance_class"] = chosen.name
    if "MultiAZ" in request:
        changes["multi_az"] = _multi_az(call, instance, request)
    if "EnableIAMDatabaseAuthentication" in request:
        refuse_lacking(rules, resolve_build(call.use(Engines), rules, instance.engine_version), request)
        changes["iam_database_authentication_enabled"] = request["EnableIAMDatabaseAuthentication"]
    if "BackupRetentionPeriod" in request:
        changes |= _backups_switched(call, instance, request)
    if "EngineVersion" in request:
        changes["engine_version"] = _upgrade(call, rules, instance, request)
    if "NewDBInstanceIdentifier" in request:
        changes["db_instance_identifier"] = _new_name(call, instance, request["NewDBInstanceIdentifier"])
    if {"AllocatedStorage", "StorageType", "Iops", "StorageThroughput"} & set(request):
        changes |= modified_storage(instance, request)
    if "CACertificateIdentifier" in request:
        changes["ca_certificate_identifier"] = check_authority(call, request["CACertificateIdentifier"])
    if "OptionGroupName" in request:
        major = rules.major_of(instance.engine_version)
        changes["option_group_name"] = chosen_option_group(call, rules, major, request["OptionGroupName"])
    wanted = {name: None if value == getattr(instance, name) else value for name, value in changes.items()}
    return msgspec.structs.replace(instance.pending, **wanted)


def _backups_switched(call: Call, instance: DBInstance, request: Request) -> dict[str, Any]:
    """Automated backups turned on or off; another number of days acts at once and is no matter of this."""
    days = retention_period(request)
    present = instance.backup_retention_period_days
    if bool(days) == bool(present):
        return {"backup_retention_period_days": present}
    if not days and replicas_of(call.tx, instance):
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"Automated backups of {instance.db_instance_identifier} cannot be turned off: the backup retention period"
            " of a DB instance with read replicas must be greater than 0.",
        )
    return {"backup_retention_period_days": days}


def _multi_az(call: Call, instance: DBInstance, request: Request) -> bool:
    """What is refused here could not be put into force later."""
    wanted: bool = request["MultiAZ"]
    if wanted and instance.pending.vpc_security_group_ids and "DBSubnetGroupName" not in request:
        raise invalid_combination(
            f"{instance.db_instance_identifier} will move to another VPC in its next maintenance window, which a"
            " Multi-AZ DB instance cannot. Let it move first, or take that back by naming its present DB subnet group."
        )
    if wanted and not instance.multi_az:
        require_capacity(call, request.get("DBInstanceClass", instance.db_instance_class), replaced=instance,
                         multi_az=True)  # fmt: skip
        name = request.get("DBSubnetGroupName", instance.db_subnet_group_name)
        standby_zone(call, require_subnet_group(call.tx, call.scope, name), instance.availability_zone)
    return wanted


def _require_same_engine(instance: DBInstance, request: Request) -> None:
    """RDS converts Oracle instances with this member; Terraform sends it with the engine that the instance has."""
    if request.get("Engine") not in (None, "", instance.engine):
        raise invalid_combination(
            f"Cannot change the engine of {instance.db_instance_identifier} from {instance.engine} to"
            f" {request['Engine']}. Create a DB instance of {request['Engine']} and load a dump of the data into it."
        )


def _upgrade(call: Call, rules: EngineRules, instance: DBInstance, request: Request) -> str:
    """A newer version of the same major; there is no way back, and no major upgrade in this version."""
    build = resolve_build(call.use(Engines), rules, request["EngineVersion"])
    require_upgradable(rules.name, rules, instance.engine_version, build)
    return build.version


def _new_name(call: Call, instance: DBInstance, name: str) -> str:
    identifier = check_db_instance_identifier(name)
    other = call.tx.get(DBInstance, call.scope, identifier)
    if other is not None and other.dbi_resource_id != instance.dbi_resource_id:
        raise ApiError("DBInstanceAlreadyExistsFault", "DB instance already exists")
    return identifier
