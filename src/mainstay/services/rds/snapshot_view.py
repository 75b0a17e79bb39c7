"""A DB snapshot as DescribeDBSnapshots shows it, and how one is found by name or ARN."""

from __future__ import annotations

from typing import Any

from mainstay.decide.identifiers import parse_arn
from mainstay.decide.rds_tags import tag_list
from mainstay.model.db_snapshot import ALL_ACCOUNTS, AUTOMATED, CREATING, DBSnapshot, InstanceFacts
from mainstay.model.errors import ApiError, Transient
from mainstay.model.records import Scope
from mainstay.services.operations import Call
from mainstay.workflows.fleet import Fleet


def not_found(named: str) -> ApiError:
    """DBSnapshotNotFound in RDS's words."""
    return ApiError("DBSnapshotNotFoundFault", f"DBSnapshot not found: {named}")


def find_snapshot(call: Call, named: str) -> DBSnapshot:
    """The account's own snapshot of this identifier or ARN, in this region. Raises `ApiError` DBSnapshotNotFound."""
    arn = parse_arn(named)
    identifier = (named if arn is None else arn.name).lower()
    row = call.tx.get(DBSnapshot, call.scope, identifier)
    if row is None or (arn is not None and row.arn != named):
        raise not_found(named)
    return row


def find_usable_snapshot(call: Call, named: str, *, anywhere: bool = False) -> DBSnapshot:
    """As `find_snapshot`, or by its ARN one that another account shares; `anywhere`: of any region of this service."""
    arn = parse_arn(named)
    if arn is None:
        return find_snapshot(call, named)
    if arn.region != call.scope.region and not (anywhere and arn.region in call.settings.regions):
        raise not_found(named)
    row = call.tx.get(DBSnapshot, Scope(arn.account_id, arn.region), arn.name.lower())
    if row is None or row.arn != named or not may_use(row, call.scope.account_id):
        raise not_found(named)
    return row


def may_use(row: DBSnapshot, account_id: str) -> bool:
    """Whether the account owns the snapshot or it is shared with it."""
    return row.scope.account_id == account_id or bool({account_id, ALL_ACCOUNTS} & set(row.restore_accounts))


def show_facts(facts: InstanceFacts) -> dict[str, Any]:
    """What snapshots and automated backups both show of the instance that they are of; None where it has no value."""
    return {
        "DBInstanceIdentifier": facts.db_instance_identifier,
        "DbiResourceId": facts.dbi_resource_id,
        "Engine": facts.engine,
        "EngineVersion": facts.engine_version,
        "AllocatedStorage": facts.allocated_storage_gib,
        "StorageType": facts.storage_type,
        "Iops": facts.iops,
        "StorageThroughput": facts.storage_throughput,
        "Port": facts.port,
        "AvailabilityZone": facts.availability_zone,
        "VpcId": facts.vpc_id,
        "InstanceCreateTime": facts.instance_create_time,
        "MasterUsername": facts.master_username,
        "LicenseModel": facts.license_model,
        "OptionGroupName": facts.option_group_name,
        "IAMDatabaseAuthenticationEnabled": facts.iam_database_authentication_enabled,
        "PreferredBackupWindow": facts.preferred_backup_window or None,
        "Encrypted": facts.storage_encrypted,
        "KmsKeyId": facts.kms_key_id or None,
        "DedicatedLogVolume": False,
        "MultiTenant": False,
    }


def show_snapshot(call: Call, row: DBSnapshot) -> dict[str, Any]:
    """The `DBSnapshot` structure of the API; another account's tags are not shown."""
    facts = row.facts
    shared = row.scope.account_id != call.scope.account_id
    snapshot_type = row.snapshot_type
    if shared:
        snapshot_type = "public" if ALL_ACCOUNTS in row.restore_accounts else "shared"
    shown = show_facts(facts) | {
        "DBSnapshotIdentifier": row.arn if shared else row.db_snapshot_identifier,
        "DBSnapshotArn": row.arn,
        "SnapshotType": snapshot_type,
        "Status": row.status,
        "PercentProgress": _percent(call, row),
        "SnapshotCreateTime": row.snapshot_create_time,
        "OriginalSnapshotCreateTime": row.original_snapshot_create_time,
        "SnapshotDatabaseTime": row.snapshot_database_time,
        "BackupRetentionPeriod": facts.backup_retention_period_days,
        "SourceRegion": row.source_region or None,
        "SourceDBSnapshotIdentifier": row.source_db_snapshot_arn or None,
        "SnapshotTarget": "region",
        "ProcessorFeatures": [],
        "TagList": [] if shared else tag_list(row.tags),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _percent(call: Call, row: DBSnapshot) -> int:
    """What the agent says of a snapshot that is being made, or stored: 100 is told of none that is not."""
    if row.status != CREATING and not row.local:
        return row.percent_progress
    try:
        seen = call.use(Fleet).observe_job(row.job_id)  # type: ignore[type-abstract]  # as in InstanceView
    except Transient:
        seen = None
    return row.percent_progress if seen is None else min(99, seen.percent)


def require_manual(row: DBSnapshot, doing: str) -> None:
    """Raises `ApiError` InvalidDBSnapshotState for an automated snapshot."""
    if row.snapshot_type == AUTOMATED:
        raise ApiError(
            "InvalidDBSnapshotStateFault",
            f"The snapshot {row.db_snapshot_identifier} is an automated snapshot and cannot be {doing}. Copy it first.",
        )
