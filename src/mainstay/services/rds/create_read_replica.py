"""CreateDBInstanceReadReplica: an instance of its own that follows another one.

Source: RDS API reference, CreateDBInstanceReadReplica; RDS user guide, "Working with DB instance read replicas".
"""

from __future__ import annotations

from typing import Any

from mainstay.decide.identifiers import check_db_instance_identifier
from mainstay.decide.rds_tags import with_tags
from mainstay.engines.base import EngineRules, Feature
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import ApiError, invalid_value, missing_parameter
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.create_db_instance import (
    check_port,
    chosen_option_group,
    chosen_parameter_group,
    new_members,
    resolve_build,
    windows,
)
from mainstay.services.rds.demands import creates, on
from mainstay.services.rds.encryption import key_for_replica
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.placement import Place, place, require_capacity, with_network_interface
from mainstay.services.rds.quotas import DB_INSTANCES, require_room
from mainstay.services.rds.read_replicas import find_source, level, name_for
from mainstay.services.rds.refresh import request_refresh
from mainstay.services.rds.storage import Storage, requested_maximum, storage
from mainstay.services.rds.table import handles
from mainstay.services.rds.unbuilt import refuse_lacking, refuse_unbuilt, refuse_unbuilt_of, require_feature
from mainstay.services.rds.volume_choice import with_volume
from mainstay.workflows.engine import new_job
from mainstay.workflows.node_specs import replicas_of
from mainstay.workflows.read_replicas import CREATE_REPLICA


@handles(
    "CreateDBInstanceReadReplica",
    creates("db", "DBInstanceIdentifier"),
    on("db", "SourceDBInstanceIdentifier"),
    on("subgrp", "DBSubnetGroupName", optional=True),
    on("pg", "DBParameterGroupName", optional=True),
    on("og", "OptionGroupName", optional=True),
)
def create_db_instance_read_replica(call: Call, request: Request) -> Result:
    """Records the replica as `creating` and starts the workflow that makes it.

    One service serves all regions and reads the source's record itself: PreSignedUrl and SourceRegion are not needed.
    """
    identifier = check_db_instance_identifier(request["DBInstanceIdentifier"])
    if call.tx.get(DBInstance, call.scope, identifier) is not None:
        raise ApiError("DBInstanceAlreadyExistsFault", "DB instance already exists")
    if not request.get("SourceDBInstanceIdentifier") and not request.get("SourceDBClusterIdentifier"):
        raise missing_parameter("The parameter SourceDBInstanceIdentifier must be provided and must not be blank.")
    if request.get("SourceDBClusterIdentifier"):
        refuse_unbuilt(request)
    source = find_source(call, request["SourceDBInstanceIdentifier"])
    key = key_for_replica(call, request, source)
    refuse_unbuilt(request)
    require_room(call.tx.count(DBInstance, call.scope), DB_INSTANCES, "InstanceQuotaExceededFault", "DB instances")
    rules = call.use(Engines).rules(source.engine)
    require_feature(rules, Feature.READ_REPLICAS)
    refuse_unbuilt_of(rules, request)
    _require_source(call, rules, source)
    replica = with_volume(call, _replica(call, request, identifier, source), key)
    replica = with_network_interface(call, replica)
    call.tx.insert(replica)
    call.tx.add_job(new_job(CREATE_REPLICA, f"db:{replica.dbi_resource_id}", call.scope, call.clock.wall()))
    request_refresh(call, source)  # it must keep WAL for followers from now on
    return {"DBInstance": InstanceView(call).show(replica)}


def _require_source(call: Call, rules: EngineRules, source: DBInstance) -> None:
    """That the instance can have one replica more. Raises the `ApiError` that RDS gives."""
    if InstanceView(call).status(source) not in ("available", "storage-optimization"):
        raise ApiError("InvalidDBInstanceStateFault", "DB instance is not in the available state")
    if Feature.BACKUPS in rules.features and not source.backup_retention_period_days:
        raise ApiError(
            "InvalidDBInstanceStateFault",
            "Automated backups are not enabled for this database instance. To enable automated backups, use"
            " ModifyDBInstance to set the backup retention period to a non-zero value.",
        )
    limits = rules.read_replica_limits(source.engine_version)
    above = level(call.tx, source)
    name = source.db_instance_identifier
    if above and not limits.per_replica:
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"DB instance {name} is a read replica; {source.engine} {source.engine_version} does not support read"
            " replicas of read replicas.",
        )
    if above >= limits.levels:
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"DB instance {name} is the last of a chain of {limits.levels} read replicas; no more can be added to it.",
        )
    most = limits.per_replica if above else limits.per_source
    require_room(len(replicas_of(call.tx, source)), most, "InstanceQuotaExceededFault", f"read replicas of {name}")


def _replica(call: Call, request: Request, identifier: str, source: DBInstance) -> DBInstance:
    """What was asked for, and the source's for everything else that RDS lets a replica inherit."""
    engines = call.use(Engines)
    rules = engines.rules(source.engine)
    build = resolve_build(engines, rules, source.engine_version)
    refuse_lacking(rules, build, request)
    multi_az = bool(request.get("MultiAZ"))
    db_class = require_capacity(call, request.get("DBInstanceClass", source.db_instance_class), multi_az=multi_az)
    where = _place(call, request, source)
    stored = _storage(request, source)
    parameter_group, option_group = _groups(call, request, source, rules, build)
    same_region = source.scope == call.scope
    backup, maintenance = (
        (source.preferred_backup_window, source.preferred_maintenance_window) if same_region else windows(call, {})
    )
    return DBInstance(
        **new_members(call, request, identifier, where, stored, multi_az=multi_az),
        source_dbi_resource_id=source.dbi_resource_id,
        source_identifier=name_for(call.scope, source),
        engine=source.engine,
        engine_version=source.engine_version,
        license_model=source.license_model,
        db_name=source.db_name,
        master_username=source.master_username,
        master_password_verifier=source.master_password_verifier,
        db_instance_class=db_class.name,
        max_allocated_storage_gib=requested_maximum(request, source.engine, stored),
        port=check_port(request.get("Port", source.port)),
        preferred_backup_window=backup,
        preferred_maintenance_window=maintenance,
        auto_minor_version_upgrade=request.get("AutoMinorVersionUpgrade", source.auto_minor_version_upgrade),
        db_parameter_group_name=parameter_group,
        parameter_group_in_force=parameter_group,
        option_group_name=option_group,
        tags=with_tags({}, request.get("Tags") or ()),
    )


def _place(call: Call, request: Request, source: DBInstance) -> Place:
    """All replicas that a source has in one region are in one VPC: that of its first one there."""
    wanted: dict[str, Any] = dict(request)
    if wanted.get("DBSubnetGroupName") is None:
        siblings = [one for one in replicas_of(call.tx, source) if one.scope == call.scope]
        if source.scope == call.scope:
            wanted["DBSubnetGroupName"] = source.db_subnet_group_name
        if siblings and siblings[0].vpc_id != source.vpc_id:
            wanted["DBSubnetGroupName"] = siblings[0].db_subnet_group_name
    where = place(call, wanted)
    for sibling in replicas_of(call.tx, source):
        if sibling.scope == call.scope and sibling.vpc_id != where.subnet_group.vpc_id:
            raise ApiError(
                "DBSubnetGroupNotAllowedFault",
                f"The DB subnet group {where.subnet_group.db_subnet_group_name} is in {where.subnet_group.vpc_id}. All"
                f" read replicas of one source in a region are in one VPC, here {sibling.vpc_id}.",
            )
    return where


def _storage(request: Request, source: DBInstance) -> Storage:
    """The source's storage where nothing else is asked for; another storage type has its own IOPS and throughput."""
    size = request.get("AllocatedStorage", source.allocated_storage_gib)
    if size < source.allocated_storage_gib:
        raise invalid_value(
            f"Invalid AllocatedStorage {size}: a read replica has at least its source's"
            f" {source.allocated_storage_gib} GiB."
        )
    kind = request.get("StorageType", source.storage_type)
    same = (kind, size) == (source.storage_type, source.allocated_storage_gib)
    return storage(
        size,
        kind,
        request.get("Iops", source.iops if same else None),
        request.get("StorageThroughput", source.storage_throughput if same else None),
    )


def _groups(
    call: Call, request: Request, source: DBInstance, rules: EngineRules, build: EngineBuild
) -> tuple[str, str]:
    """Parameter and option group: the source's in its own region, the defaults in another one, unless named."""
    own = source.scope == call.scope
    parameter_group = request.get("DBParameterGroupName") or (source.db_parameter_group_name if own else None)
    option_group = request.get("OptionGroupName") or (source.option_group_name if own else None)
    return (
        chosen_parameter_group(call, rules, build, parameter_group),
        chosen_option_group(call, rules, build.major, option_group),
    )
