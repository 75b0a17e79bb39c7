"""CreateDBInstance: everything that can be refused is refused here, in one transaction with what is recorded.

Source: RDS API reference, CreateDBInstance; defaults and texts as RDS gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstay.decide.identifiers import check_db_instance_identifier
from mainstay.decide.rds_tags import with_tags
from mainstay.decide.windows import (
    check_windows_apart,
    default_backup_window,
    default_maintenance_window,
    parse_backup_window,
    parse_maintenance_window,
)
from mainstay.engines.base import EngineRules
from mainstay.engines.registry import Engines
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.randomness import BASE32_UPPER, HEX
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import ApiError, Permanent, invalid_combination, invalid_value, missing_parameter
from mainstay.model.option_group import OptionGroup
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.backup_settings import retention_period_of_new, with_automated_backups
from mainstay.services.rds.demands import creates, on
from mainstay.services.rds.encryption import key_for_new
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.master_secret import keep_managed_password, with_managed_password
from mainstay.services.rds.option_groups import default_option_group, require_option_group
from mainstay.services.rds.parameter_groups import default_parameter_group, require_parameter_group
from mainstay.services.rds.placement import Place, place, require_capacity, with_network_interface
from mainstay.services.rds.quotas import DB_INSTANCES, require_room
from mainstay.services.rds.storage import Storage, requested_maximum, storage
from mainstay.services.rds.table import handles
from mainstay.services.rds.unbuilt import refuse_lacking, refuse_unbuilt, refuse_unbuilt_of
from mainstay.services.rds.volume_choice import with_volume
from mainstay.workflows.db_instances import CREATE
from mainstay.workflows.engine import new_job

PORTS = (1150, 65535)
RESOURCE_ID_CHARACTERS = 26
NODE_ID_CHARACTERS = 17
SALT_BYTES = 16
DRAW = 1 << 30


@handles(
    "CreateDBInstance",
    creates("db", "DBInstanceIdentifier"),
    on("subgrp", "DBSubnetGroupName", optional=True),
    on("pg", "DBParameterGroupName", optional=True),
    on("og", "OptionGroupName", optional=True),
)
def create_db_instance(call: Call, request: Request) -> Result:
    """Records the instance as `creating` and starts the workflow that makes it."""
    identifier = check_db_instance_identifier(request["DBInstanceIdentifier"])
    if call.tx.get(DBInstance, call.scope, identifier) is not None:
        raise ApiError("DBInstanceAlreadyExistsFault", "DB instance already exists")
    refuse_unbuilt(request)
    refuse_unbuilt_of(call.use(Engines).rules(request["Engine"]), request)
    require_room(call.tx.count(DBInstance, call.scope), DB_INSTANCES, "InstanceQuotaExceededFault", "DB instances")
    request = with_managed_password(call, call.use(Engines).rules(request["Engine"]), request)
    instance = with_volume(call, _instance(call, request, identifier), key_for_new(call, request))
    instance = with_network_interface(call, instance)
    instance = with_automated_backups(call, instance)
    call.tx.insert(instance)
    keep_managed_password(call, instance, request)
    call.tx.add_job(new_job(CREATE, f"db:{instance.dbi_resource_id}", call.scope, call.clock.wall()))
    return {"DBInstance": InstanceView(call).show(instance) | _pending_password()}


def _pending_password() -> dict[str, Any]:
    return {"PendingModifiedValues": {"MasterUserPassword": "****"}}


def _instance(call: Call, request: Request, identifier: str) -> DBInstance:
    engines = call.use(Engines)
    rules = engines.rules(request["Engine"])
    build = resolve_build(engines, rules, request.get("EngineVersion"))
    refuse_lacking(rules, build, request)
    multi_az = bool(request.get("MultiAZ"))
    db_class = require_capacity(call, request["DBInstanceClass"], multi_az=multi_az)
    where = place(call, request)
    stored = _storage(request)
    username, verifier = _master(call, rules, request)
    backup, maintenance = windows(call, request)
    parameter_group = chosen_parameter_group(call, rules, build, request.get("DBParameterGroupName"))
    option_group = chosen_option_group(call, rules, build.major, request.get("OptionGroupName"))
    return DBInstance(
        **new_members(call, request, identifier, where, stored, multi_az=multi_az),
        engine=rules.name,
        engine_version=build.version,
        db_instance_class=db_class.name,
        max_allocated_storage_gib=requested_maximum(request, rules.name, stored),
        db_name=_database(rules, request.get("DBName")),
        master_username=username,
        master_password_verifier=verifier,
        port=check_port(request.get("Port", rules.default_port)),
        backup_retention_period_days=retention_period_of_new(rules, request),
        preferred_backup_window=backup,
        preferred_maintenance_window=maintenance,
        auto_minor_version_upgrade=request.get("AutoMinorVersionUpgrade", True),
        license_model=_license(rules, request.get("LicenseModel")),
        db_parameter_group_name=parameter_group,
        parameter_group_in_force=parameter_group,
        option_group_name=option_group,
        tags=with_tags({}, request.get("Tags") or ()),
    )


def new_members(
    call: Call, request: Request, identifier: str, where: Place, stored: Storage, *, multi_az: bool
) -> dict[str, Any]:
    """Members of `DBInstance` that are made alike for every new one: names, place, storage, what the request sets."""
    return {
        "scope": call.scope,
        "db_instance_identifier": identifier,
        "dbi_resource_id": "db-" + call.randomness.text(RESOURCE_ID_CHARACTERS, BASE32_UPPER),
        "node_id": new_node_id(call),
        "multi_az": multi_az,
        "standby_node_id": new_node_id(call) if multi_az else "",
        "standby_subnet_id": where.standby_subnet_id,
        "secondary_availability_zone": where.secondary_availability_zone,
        "allocated_storage_gib": stored.allocated_gib,
        "storage_type": stored.storage_type,
        "iops": stored.iops,
        "storage_throughput": stored.throughput,
        "vpc_id": where.subnet_group.vpc_id,
        "subnet_id": where.subnet_id,
        "vpc_security_group_ids": where.group_ids,
        "db_subnet_group_name": where.subnet_group.db_subnet_group_name,
        "availability_zone": where.availability_zone,
        "publicly_accessible": where.publicly_accessible,
        "copy_tags_to_snapshot": request.get("CopyTagsToSnapshot", False),
        "deletion_protection": request.get("DeletionProtection", False),
        "iam_database_authentication_enabled": request.get("EnableIAMDatabaseAuthentication", False),
        "ca_certificate_identifier": check_authority(call, request.get("CACertificateIdentifier")),
        "requested_at": call.clock.wall(),
    }


def new_node_id(call: Call) -> str:
    """Names one more node."""
    return "node-" + call.randomness.text(NODE_ID_CHARACTERS, HEX)


def resolve_build(engines: Engines, rules: EngineRules, version: str | None) -> EngineBuild:
    """The installed build of a version, of the newest of a major version, or of the newest of all."""
    installed = engines.builds.of(rules.name)
    if not installed:
        raise invalid_combination(
            f"No version of {rules.name} is installed. Run `mainstay engines install {rules.name}` on the host."
        )
    if not version:  # Terraform sends "" where none is given
        return max(installed, key=lambda build: [int(part) for part in build.version.split(".")])
    try:
        return engines.builds.resolve(rules.name, version)
    except Permanent as error:
        raise invalid_combination(
            f"Cannot find version {version} for {rules.name}. Installed:"
            f" {', '.join(sorted(build.version for build in installed))}."
        ) from error


def _storage(request: Request) -> Storage:
    if request.get("AllocatedStorage") is None:
        raise missing_parameter("The parameter AllocatedStorage must be provided and must not be blank.")
    return storage(
        request["AllocatedStorage"], request.get("StorageType"), request.get("Iops"), request.get("StorageThroughput")
    )


def _master(call: Call, rules: EngineRules, request: Request) -> tuple[str, str]:
    """The master user's name, and the verifier of the password; the password itself is forgotten here."""
    for member in ("MasterUsername", "MasterUserPassword"):
        if not request.get(member):
            raise missing_parameter(f"The parameter {member} must be provided and must not be blank.")
    rules.check_master_username(request["MasterUsername"])
    return request["MasterUsername"], verifier_of(call, rules, request["MasterUsername"], request["MasterUserPassword"])


def verifier_of(call: Call, rules: EngineRules, username: str, password: str) -> str:
    """The verifier of a password that the engine's rules take."""
    rules.check_master_password(password)
    return rules.password_verifier(username, password, call.randomness.token_bytes(SALT_BYTES))


def _database(rules: EngineRules, name: str | None) -> str:
    if not name:  # Terraform sends "" where none is given
        return rules.default_database() or ""
    rules.check_database_name(name)
    return name


def check_port(port: int) -> int:
    """The port, if RDS takes it."""
    least, most = PORTS
    if not least <= port <= most:
        raise invalid_value(f"Invalid port {port}: it must be between {least} and {most}.")
    return port


def _license(rules: EngineRules, model: str | None) -> str:
    if model not in (None, rules.license_model):
        raise invalid_combination(f"The license model {model} is not valid for engine {rules.name}.")
    return rules.license_model


def check_authority(call: Call, identifier: str | None) -> str:
    """The certificate authority asked for, or the default one."""
    authorities = call.use(CertificateAuthorities)
    known = [described.identifier for described in authorities.described()]
    if identifier is None:
        return authorities.default_identifier
    if identifier not in known:
        raise ApiError("CertificateNotFoundFault", f"Certificate not found: {identifier}")
    return identifier


def windows(call: Call, request: Mapping[str, Any]) -> tuple[str, str]:
    """The backup and maintenance windows asked for, or drawn from the region's block; never overlapping."""
    backup_text, maintenance_text = request.get("PreferredBackupWindow"), request.get("PreferredMaintenanceWindow")
    backup = parse_backup_window(backup_text) if backup_text else None
    maintenance = parse_maintenance_window(maintenance_text) if maintenance_text else None
    region = call.scope.region
    backup = backup or default_backup_window(region, call.randomness.below(DRAW), maintenance)
    maintenance = maintenance or default_maintenance_window(region, call.randomness.below(DRAW), backup)
    check_windows_apart(backup, maintenance)
    return str(backup), str(maintenance)


def chosen_parameter_group(call: Call, rules: EngineRules, build: EngineBuild, name: str | None) -> str:
    """The DB parameter group asked for, of the right family, or the family's default one."""
    family = rules.family(build.major)
    group: DBParameterGroup = (
        default_parameter_group(call, rules.default_parameter_group(family))
        if name is None
        else require_parameter_group(call, name)
    )
    if group.db_parameter_group_family != family:
        raise invalid_combination(
            f"The parameter group {group.db_parameter_group_name} with DBParameterGroupFamily"
            f" {group.db_parameter_group_family} can't be used for this instance. Please use a parameter group with"
            f" DBParameterGroupFamily {family}"
        )
    return group.db_parameter_group_name


def chosen_option_group(call: Call, rules: EngineRules, major: str, name: str | None) -> str:
    """The option group asked for, of the right engine and major version, or the default one."""
    group: OptionGroup = (
        default_option_group(call, rules.default_option_group(major))
        if name is None
        else require_option_group(call, name)
    )
    if (group.engine_name, group.major_engine_version) != (rules.name, major):
        raise invalid_combination(
            f"The option group {group.option_group_name} is for {group.engine_name} {group.major_engine_version}, the"
            f" instance runs {rules.name} {major}."
        )
    return group.option_group_name
