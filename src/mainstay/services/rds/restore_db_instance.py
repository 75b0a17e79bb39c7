"""RestoreDBInstanceFromDBSnapshot and RestoreDBInstanceToPointInTime: always a new instance, of its own identity.

Source: RDS API reference; RDS user guide, "Restoring to a DB instance" and "Restoring a DB instance to a specified
time".
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.identifiers import check_db_instance_identifier, parse_arn
from mainstay.decide.rds_tags import with_tags
from mainstay.decide.restore_window import base_backup, moment_text, restore_window
from mainstay.engines.base import EngineRules
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance, RestoreFrom
from mainstay.model.db_snapshot import AVAILABLE, BackupRepository, DBInstanceAutomatedBackup, DBSnapshot, InstanceFacts
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.model.node import RestoreTarget
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.backup_settings import retention_period, with_automated_backups
from mainstay.services.rds.create_db_instance import (
    check_port,
    chosen_option_group,
    chosen_parameter_group,
    new_members,
    resolve_build,
    verifier_of,
    windows,
)
from mainstay.services.rds.db_instances import find_instance
from mainstay.services.rds.demands import creates, on, on_arn_if_given
from mainstay.services.rds.encryption import key_for_restored
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.master_secret import keep_managed_password, with_managed_password
from mainstay.services.rds.placement import place, require_capacity, with_network_interface
from mainstay.services.rds.promises import complete_backups, promise_of
from mainstay.services.rds.quotas import DB_INSTANCES, require_room
from mainstay.services.rds.snapshot_view import find_usable_snapshot
from mainstay.services.rds.storage import Storage, requested_maximum, storage
from mainstay.services.rds.table import handles
from mainstay.services.rds.unbuilt import refuse_lacking, refuse_unbuilt
from mainstay.services.rds.volume_choice import with_key_of_clone, with_volume
from mainstay.workflows.automated_backups import backup_record
from mainstay.workflows.db_instances import RESTORE, SNAPSHOT_RESTORED
from mainstay.workflows.encryption import require_key
from mainstay.workflows.engine import new_job
from mainstay.workflows.fleet import Fleet, last_seen_leader


class Restoring(msgspec.Struct, frozen=True, kw_only=True):
    """What is restored, from where, and how its event tells of it."""

    facts: InstanceFacts
    source: RestoreFrom
    tags: dict[str, str]
    event_id: str
    words: dict[str, str]
    snapshot: DBSnapshot | None = None


@handles(
    "RestoreDBInstanceFromDBSnapshot",
    creates("db", "DBInstanceIdentifier"),
    on("snapshot", "DBSnapshotIdentifier"),
    on("subgrp", "DBSubnetGroupName", optional=True),
    on("pg", "DBParameterGroupName", optional=True),
    on("og", "OptionGroupName", optional=True),
)
def restore_db_instance_from_db_snapshot(call: Call, request: Request) -> Result:
    """Records the instance as `creating` and starts the workflow that makes it of the snapshot."""
    identifier = new_identifier(call, request["DBInstanceIdentifier"])
    if request.get("DBClusterSnapshotIdentifier"):
        raise invalid_combination("DB clusters: not available in this version of Mainstay. Name a DB snapshot.")
    if not request.get("DBSnapshotIdentifier"):
        raise invalid_combination("The parameter DBSnapshotIdentifier must be provided and must not be blank.")
    row = find_usable_snapshot(call, request["DBSnapshotIdentifier"])
    if row.status != AVAILABLE or row.backup is None:
        raise ApiError(
            "InvalidDBSnapshotStateFault", f"Snapshot {row.db_snapshot_identifier} is not in available state."
        )
    own = row.scope.account_id == call.scope.account_id
    if not own and row.facts.storage_encrypted:
        raise invalid_combination(
            f"The snapshot {row.arn} is encrypted and shared by another account. Copy it with CopyDBSnapshot and a"
            " KmsKeyId of your own, and restore the copy."
        )
    name = row.db_snapshot_identifier
    source = RestoreFrom(
        repository_scope=row.scope,
        repository_id=row.repository_id,
        backup_id=row.backup_id,
        target=RestoreTarget(timeline=row.backup.timeline),
        described=name,
        crash_consistent=row.backup.crash_consistent,
    )
    tags = row.tags if own and not request.get("Tags") else {}
    restoring = Restoring(
        facts=row.facts, source=source, tags=tags, event_id=SNAPSHOT_RESTORED, words={"snapshot": name}, snapshot=row
    )
    return restore(call, request, identifier, restoring)


@handles(
    "RestoreDBInstanceToPointInTime",
    creates("db", "TargetDBInstanceIdentifier"),
    on("db", "SourceDBInstanceIdentifier", optional=True),
    on_arn_if_given("SourceDBInstanceAutomatedBackupsArn"),
    on("subgrp", "DBSubnetGroupName", optional=True),
    on("pg", "DBParameterGroupName", optional=True),
    on("og", "OptionGroupName", optional=True),
)
def restore_db_instance_to_point_in_time(call: Call, request: Request) -> Result:
    """Records the instance as `creating` and starts the workflow that makes it of the source's automated backups."""
    identifier = new_identifier(call, request["TargetDBInstanceIdentifier"])
    backup = _source(call, request)
    source = source_of_moment(call, request, backup)
    name = backup.facts.db_instance_identifier
    restoring = Restoring(
        facts=backup.facts, source=source, tags={}, event_id="RDS-EVENT-0019",
        words={"origin": name, "target": identifier},
    )  # fmt: skip
    return restore(call, request, identifier, restoring)


def new_identifier(call: Call, name: str) -> str:
    """The identifier as it is stored. Raises `ApiError` unless one more instance may have it."""
    identifier = check_db_instance_identifier(name)
    if call.tx.get(DBInstance, call.scope, identifier) is not None:
        raise ApiError("DBInstanceAlreadyExistsFault", "DB instance already exists")
    require_room(call.tx.count(DBInstance, call.scope), DB_INSTANCES, "InstanceQuotaExceededFault", "DB instances")
    return identifier


def _source(call: Call, request: Request) -> DBInstanceAutomatedBackup:
    """The automated backups of the one source that is named, with what the source is now."""
    members = ("SourceDBInstanceIdentifier", "SourceDbiResourceId", "SourceDBInstanceAutomatedBackupsArn")
    named = [member for member in members if request.get(member)]
    if len(named) != 1:
        raise invalid_combination(f"Exactly one of {', '.join(members)} must be specified.")
    text: str = request[named[0]]
    found: DBInstanceAutomatedBackup | None
    if named[0] == "SourceDBInstanceIdentifier":
        instance = find_instance(call, text)
        found = backup_record(call.tx, instance)
        if found is None:
            raise ApiError(
                "PointInTimeRestoreNotEnabledFault",
                f"Point in time restore is not enabled for instance {instance.db_instance_identifier}",
            )
        return found
    if named[0] == "SourceDbiResourceId":
        found = call.tx.get(DBInstanceAutomatedBackup, call.scope, text.upper().replace("DB-", "db-"))
        if found is None and (instances := call.tx.find(DBInstance, call.scope, "dbi-resource-id", text)):
            raise ApiError(
                "PointInTimeRestoreNotEnabledFault",
                f"Point in time restore is not enabled for instance {instances[0].db_instance_identifier}",
            )
    else:
        arn = parse_arn(text)
        name = "" if arn is None else arn.name
        matching = call.tx.find(DBInstanceAutomatedBackup, call.scope, "automated-backup-id", name)
        found = next((one for one in matching if one.arn == text), None)
    if found is None:
        raise ApiError("DBInstanceAutomatedBackupNotFoundFault", f"DBInstanceAutomatedBackup {text} not found.")
    return found


def source_of_moment(call: Call, request: Request, backup: DBInstanceAutomatedBackup) -> RestoreFrom:
    """The base and the moment asked for. Raises the `ApiError` that RDS gives outside the restore window."""
    at, latest = request.get("RestoreTime"), request.get("UseLatestRestorableTime", False)
    if at is not None and latest:
        raise invalid_combination("RestoreTime cannot be specified together with UseLatestRestorableTime.")
    if at is None and not latest:
        raise invalid_combination("Either RestoreTime or UseLatestRestorableTime must be specified.")
    name = backup.facts.db_instance_identifier
    found = call.tx.find(DBInstance, call.scope, "dbi-resource-id", backup.facts.dbi_resource_id)
    seen = last_seen_leader(call.use(Fleet), found[0]) if found else None  # type: ignore[type-abstract]
    promise = promise_of(backup, seen)
    backups = complete_backups(call.tx, backup)
    window = restore_window(backups, promise.latest_at, promise.gap)
    if window is None:
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"The instance {name} has no moment to restore to yet: its first automated backup is not complete.",
        )
    moment = window.latest_at if at is None else at.timestamp()
    base = base_backup(backups, moment, promise.gap) if moment <= window.latest_at else None
    if base is None:
        raise invalid_value(
            f"The specified restore time {moment_text(moment)} is not valid for {name}. It must be between"
            f" {moment_text(window.earliest_at)} and {moment_text(window.latest_at)}."
        )
    return RestoreFrom(
        repository_scope=backup.scope,
        repository_id=backup.repository_id,
        backup_id=base.backup_id,
        target=RestoreTarget(at=moment, timeline=promise.timeline),
        described=name,
    )


def restore(call: Call, request: Request, identifier: str, restoring: Restoring) -> Result:
    """Records the instance as `creating` and starts the workflow."""
    refuse_unbuilt(request)
    rules = call.use(Engines).rules(restoring.facts.engine)
    request = with_managed_password(call, rules, request)
    _require_readable(call, restoring)
    key = key_for_restored(call, restoring.facts)
    instance = with_volume(call, _instance(call, request, identifier, restoring), key)
    instance = with_key_of_clone(instance, restoring.snapshot)
    instance = with_network_interface(call, instance)
    instance = with_automated_backups(call, instance)
    call.tx.insert(instance)
    keep_managed_password(call, instance, request)
    frame = {"event_id": restoring.event_id, "words": restoring.words}
    call.tx.add_job(new_job(RESTORE, f"db:{instance.dbi_resource_id}", call.scope, call.clock.wall(), frame))
    return {"DBInstance": InstanceView(call).show(instance)}


def _require_readable(call: Call, restoring: Restoring) -> None:
    """Raises `ApiError` KMSKeyNotAccessibleFault unless the key of the backup is enabled."""
    source = restoring.source
    repository = call.tx.get(BackupRepository, source.repository_scope, source.repository_id)
    if repository is not None and repository.kms_key_id:
        require_key(call.tx, repository.kms_key_id)


def _instance(call: Call, request: Request, identifier: str, restoring: Restoring) -> DBInstance:
    """What was asked for, what a restore takes over, and the defaults of a new instance for everything else."""
    facts = restoring.facts
    rules = call.use(Engines).rules(facts.engine)
    build = _build(call, rules, request, facts)
    refuse_lacking(rules, build, request)
    multi_az = bool(request.get("MultiAZ"))
    db_class = require_capacity(call, request.get("DBInstanceClass") or facts.db_instance_class, multi_az=multi_az)
    where = place(call, request)
    stored = _storage(request, facts)
    backup, maintenance = windows(
        call, {"PreferredBackupWindow": request.get("PreferredBackupWindow") or facts.preferred_backup_window}
    )
    parameter_group = chosen_parameter_group(call, rules, build, request.get("DBParameterGroupName"))
    return DBInstance(
        **new_members(call, request, identifier, where, stored, multi_az=multi_az),
        restore_from=restoring.source,
        engine=facts.engine,
        engine_version=build.version,
        license_model=facts.license_model,
        db_name=facts.db_name,
        master_username=facts.master_username,
        master_password_verifier=_verifier(call, rules, request, facts),
        db_instance_class=db_class.name,
        max_allocated_storage_gib=requested_maximum(request, facts.engine, stored),
        port=check_port(request.get("Port", facts.port)),
        backup_retention_period_days=retention_period(request, facts.backup_retention_period_days),
        preferred_backup_window=backup,
        preferred_maintenance_window=maintenance,
        auto_minor_version_upgrade=request.get("AutoMinorVersionUpgrade", True),
        db_parameter_group_name=parameter_group,
        parameter_group_in_force=parameter_group,
        option_group_name=chosen_option_group(call, rules, build.major, request.get("OptionGroupName")),
        tags=with_tags(restoring.tags, request.get("Tags") or ()),
    )


def _build(call: Call, rules: EngineRules, request: Request, facts: InstanceFacts) -> EngineBuild:
    """The build of the very version, or where it is not installed any more, the newest of its major version."""
    if request.get("Engine") not in (None, "", facts.engine):
        raise invalid_combination(f"The engine {request['Engine']} is not valid: the backup is of {facts.engine}.")
    if request.get("DBName"):
        raise invalid_combination(f"DBName cannot be specified when a {facts.engine} DB instance is restored.")
    if request.get("LicenseModel") not in (None, "", facts.license_model):
        raise invalid_combination(
            f"The license model {request['LicenseModel']} is not valid for engine {facts.engine}."
        )
    engines = call.use(Engines)
    installed = engines.builds.of(rules.name)
    major = rules.major_of(facts.engine_version)
    same = any(build.version == facts.engine_version for build in installed)
    newer = any(build.major == major for build in installed)
    return resolve_build(engines, rules, major if newer and not same else facts.engine_version)


def _verifier(call: Call, rules: EngineRules, request: Request, facts: InstanceFacts) -> str:
    if request.get("ManageMasterUserPassword"):
        return verifier_of(call, rules, facts.master_username, request["MasterUserPassword"])
    return facts.master_password_verifier


def _storage(request: Request, facts: InstanceFacts) -> Storage:
    """The backup's storage where nothing else is asked for; it may be larger, never smaller."""
    size: int = request.get("AllocatedStorage") or facts.allocated_storage_gib
    if size < facts.allocated_storage_gib:
        raise invalid_value(
            f"Invalid AllocatedStorage {size}: a restored DB instance has at least the {facts.allocated_storage_gib}"
            " GiB of the backup."
        )
    kind = request.get("StorageType") or facts.storage_type
    same = (kind, size) == (facts.storage_type, facts.allocated_storage_gib)
    given: dict[str, Any] = dict(request)
    return storage(
        size,
        kind,
        given.get("Iops", facts.iops if same else None),
        given.get("StorageThroughput", facts.storage_throughput if same else None),
    )
