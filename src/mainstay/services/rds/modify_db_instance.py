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
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.changes import notify
from mainstay.services.ec2.interfaces import set_interface_groups
from mainstay.services.operations import Call, Request, Result
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
from mainstay.services.rds.events import record_instance_event
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.placement import public_access, require_capacity, security_groups
from mainstay.services.rds.storage import storage
from mainstay.services.rds.subnet_groups import require_subnet_group
from mainstay.services.rds.table import handles
from mainstay.services.rds.unbuilt import refuse_unbuilt
from mainstay.workflows.apply_pending_modifications import APPLY_PENDING
from mainstay.workflows.engine import new_job
from mainstay.workflows.modification import put_into_force

GROWTH_PERCENT_MIN = 10


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
    rules = call.use(Engines).rules(before.engine)
    after = _immediate(call, rules, before, request)
    after = msgspec.structs.replace(after, pending=_deferrable(call, rules, before, request))
    if request.get("ApplyImmediately", False) and after.pending:
        stored = put_into_force(call.tx, call.clock, before, after, restart=_restarts(before, after))
    elif _touches_node(before, after):
        held = after.pending
        stored = put_into_force(
            call.tx, call.clock, before, msgspec.structs.replace(after, pending=PendingModification()),
            restart=_restarts(before, after),
        )  # fmt: skip
        stored = msgspec.structs.replace(stored, pending=held)
        call.tx.put(stored)
    else:
        stored = after
        call.tx.put(stored)
    _schedule(call, stored)
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
    if "VpcSecurityGroupIds" in request:
        changes["vpc_security_group_ids"] = security_groups(call, instance.vpc_id, request["VpcSecurityGroupIds"])
        set_interface_groups(call.tx, call.scope, instance.network_interface_id, changes["vpc_security_group_ids"])
        notify(call)
    if "PubliclyAccessible" in request:
        group = require_subnet_group(call.tx, call.scope, instance.db_subnet_group_name)
        changes["publicly_accessible"] = public_access(call, group, request["PubliclyAccessible"])
    if "DBParameterGroupName" in request:
        build = resolve_build(call.use(Engines), rules, request.get("EngineVersion", instance.engine_version))
        changes["db_parameter_group_name"] = chosen_parameter_group(
            call, rules, build, request["DBParameterGroupName"].lower()
        )
    return msgspec.structs.replace(instance, **changes)


def _deferrable(call: Call, rules: EngineRules, instance: DBInstance, request: Request) -> PendingModification:
    """What is pending already and what this request adds; asking for the present value takes a pending one back."""
    changes: dict[str, Any] = {}
    if "DBInstanceClass" in request:
        changes["db_instance_class"] = require_capacity(call, request["DBInstanceClass"], replaced=instance).name
    if "EngineVersion" in request:
        changes["engine_version"] = _upgrade(call, rules, instance, request)
    if "NewDBInstanceIdentifier" in request:
        changes["db_instance_identifier"] = _new_name(call, instance, request["NewDBInstanceIdentifier"])
    if {"AllocatedStorage", "StorageType", "Iops", "StorageThroughput"} & set(request):
        changes |= _storage(instance, request)
    if "CACertificateIdentifier" in request:
        changes["ca_certificate_identifier"] = check_authority(call, request["CACertificateIdentifier"])
    if "DBSubnetGroupName" in request:
        changes["db_subnet_group_name"] = _subnet_group(call, instance, request["DBSubnetGroupName"])
    if "OptionGroupName" in request:
        build = resolve_build(call.use(Engines), rules, instance.engine_version)
        changes["option_group_name"] = chosen_option_group(call, rules, build, request["OptionGroupName"])
    wanted = {name: None if value == getattr(instance, name) else value for name, value in changes.items()}
    return msgspec.structs.replace(instance.pending, **wanted)


def _upgrade(call: Call, rules: EngineRules, instance: DBInstance, request: Request) -> str:
    """A newer version of the same major; there is no way back, and no major upgrade in this version."""
    engines = call.use(Engines)
    build = resolve_build(engines, rules, request["EngineVersion"])
    present = resolve_build(engines, rules, instance.engine_version)
    refused = f"Cannot upgrade {rules.name} from {instance.engine_version} to {build.version}"
    if build.major != present.major:
        raise invalid_combination(f"{refused}: major version upgrades are not available in this version of Mainstay.")
    if [int(part) for part in build.version.split(".")] < [int(part) for part in present.version.split(".")]:
        raise invalid_combination(f"{refused}: a version cannot be taken back.")
    return build.version


def _new_name(call: Call, instance: DBInstance, name: str) -> str:
    identifier = check_db_instance_identifier(name)
    other = call.tx.get(DBInstance, call.scope, identifier)
    if other is not None and other.dbi_resource_id != instance.dbi_resource_id:
        raise ApiError("DBInstanceAlreadyExistsFault", "DB instance already exists")
    return identifier


def _storage(instance: DBInstance, request: Request) -> dict[str, Any]:
    present = instance.allocated_storage_gib
    size = request.get("AllocatedStorage", present)
    if size < present:
        raise invalid_combination("Invalid storage size for storage modification: storage cannot be reduced.")
    if present < size < present + present * GROWTH_PERCENT_MIN / 100:
        size = -(-present * (100 + GROWTH_PERCENT_MIN) // 100)
    kind = request.get("StorageType", instance.storage_type)
    same_kind = kind == instance.storage_type and size == present
    chosen = storage(
        size,
        kind,
        request.get("Iops", instance.iops if same_kind else None),
        request.get("StorageThroughput", instance.storage_throughput if same_kind else None),
    )
    return {
        "allocated_storage_gib": chosen.allocated_gib,
        "storage_type": chosen.storage_type,
        "iops": chosen.iops,
        "storage_throughput": chosen.throughput,
    }


def _subnet_group(call: Call, instance: DBInstance, name: str) -> str:
    group = require_subnet_group(call.tx, call.scope, name)
    if group.vpc_id != instance.vpc_id:
        raise invalid_value("Moving an instance to another VPC is not available in this version of Mainstay.")
    return group.db_subnet_group_name
