"""A DB instance as DescribeDBInstances shows it. Values that do not hold are left out, as on AWS."""

from __future__ import annotations

from typing import Any

from mainstay.decide.db_instance_status import db_instance_status
from mainstay.decide.rds_tags import tag_list
from mainstay.host.certificates import valid_till
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.model.node import Node, NodeStatus
from mainstay.services.operations import Call
from mainstay.services.rds.master_secret import show_master_secret
from mainstay.services.rds.promises import window_of
from mainstay.services.rds.read_replicas import show_replication
from mainstay.services.rds.subnet_groups import show_subnet_group
from mainstay.store import Reader
from mainstay.workflows.automated_backups import backup_record
from mainstay.workflows.fleet import Fleet, last_seen_leader
from mainstay.workflows.modification import CHANGED
from mainstay.workflows.replicate_backups import copies_of

PENDING_MEMBERS = {
    "db_instance_class": "DBInstanceClass",
    "allocated_storage_gib": "AllocatedStorage",
    "engine_version": "EngineVersion",
    "db_instance_identifier": "DBInstanceIdentifier",
    "storage_type": "StorageType",
    "iops": "Iops",
    "storage_throughput": "StorageThroughput",
    "ca_certificate_identifier": "CACertificateIdentifier",
    "db_subnet_group_name": "DBSubnetGroupName",
    "multi_az": "MultiAZ",
    "iam_database_authentication_enabled": "IAMDatabaseAuthenticationEnabled",
    "backup_retention_period_days": "BackupRetentionPeriod",
}


class InstanceView:
    """Shows instances of one call; what several of them share (subnet groups) is read once."""

    def __init__(self, call: Call) -> None:
        self._reader: Reader = call.tx
        self._fleet = call.use(Fleet)  # type: ignore[type-abstract]  # the Protocol is the key of the collaborator
        self._hosted_zone_id = f"Z{call.scope.account_id}{call.scope.region.upper().replace('-', '')}"
        self._subnet_groups: dict[str, dict[str, Any] | None] = {}

    def status(self, instance: DBInstance) -> str:
        """DBInstanceStatus."""
        return db_instance_status(instance, self._seen(instance))

    def _seen(self, instance: DBInstance) -> NodeStatus | None:
        return last_seen_leader(self._fleet, instance)

    def show(self, instance: DBInstance) -> dict[str, Any]:
        """The whole `DBInstance` structure of the API."""
        seen = self._seen(instance)
        node = self._reader.get(Node, instance.scope, instance.node_id)
        apply_status = parameter_apply_status(instance, node, seen)
        backup = backup_record(self._reader, instance)
        copies = [] if backup is None else copies_of(self._reader, instance.dbi_resource_id)
        window = None if backup is None else window_of(self._reader, backup, seen)
        shown = _asked_for(instance) | _network(instance, node) | _UNBUILT
        shown |= show_replication(self._reader, instance, seen) | show_master_secret(self._reader, instance)
        shown |= {
            "DBInstanceStatus": db_instance_status(instance, seen),
            "InstanceCreateTime": instance.instance_create_time,
            "DBParameterGroups": [
                {"DBParameterGroupName": instance.db_parameter_group_name, "ParameterApplyStatus": apply_status}
            ],
            "OptionGroupMemberships": self._option_groups(instance),
            "DBSubnetGroup": self._subnet_group(instance),
            "PendingModifiedValues": _pending(instance),
            "AutomaticRestartTime": instance.automatic_restart_at,
            "PercentProgress": _percent(seen),
            "DBInstanceAutomatedBackupsReplications": [{"DBInstanceAutomatedBackupsArn": one.arn} for one in copies]
            or None,
            # None before there is a backup to begin from.
            "LatestRestorableTime": None if window is None else window.latest_at,
        }
        if node is not None and (instance.instance_create_time is not None or _waits(seen)):
            shown["Endpoint"] = {
                "Address": node.spec.endpoint.address,
                "Port": node.spec.endpoint.port,
                "HostedZoneId": self._hosted_zone_id,
            }
        return {name: value for name, value in shown.items() if value is not None}

    def _option_groups(self, instance: DBInstance) -> list[dict[str, str]]:
        """The group in force, or being put into force; beside it, as on RDS, the one that the next window brings.

        RDS has no member for that one among the pending modified values.
        """
        present, next_one = instance.option_group_name, instance.pending.option_group_name
        if next_one is None:
            jobs = self._reader.jobs(f"db:{instance.dbi_resource_id}") if instance.change else []
            applying = any("option_group_name" in job.frame.get(CHANGED, ()) for job in jobs)
            return [{"OptionGroupName": present, "Status": "applying" if applying else "in-sync"}]
        return [
            {"OptionGroupName": present, "Status": "pending-maintenance-removal"},
            {"OptionGroupName": next_one, "Status": "pending-maintenance-apply"},
        ]

    def _subnet_group(self, instance: DBInstance) -> dict[str, Any] | None:
        name = instance.db_subnet_group_name
        if name not in self._subnet_groups:
            group = self._reader.get(DBSubnetGroup, instance.scope, name)
            self._subnet_groups[name] = None if group is None else show_subnet_group(group)
        return self._subnet_groups[name]


def _waits(seen: NodeStatus | None) -> bool:
    """Whether it is a restore that is paused for a look: it can be connected to."""
    return seen is not None and seen.restore is not None and seen.restore.phase == "paused"


def _percent(seen: NodeStatus | None) -> str | None:
    """How far a restore is: its files, then 99 while the log is replayed, whose length is not known."""
    progress = None if seen is None else seen.restore
    if progress is None or _waits(seen):
        return None
    return str(min(99, 100 * progress.bytes_done // progress.bytes_total)) if progress.bytes_total else "99"


_UNBUILT: dict[str, Any] = {
    "PerformanceInsightsEnabled": False,
    "MonitoringInterval": 0,
    "DBSecurityGroups": [],
    "DomainMemberships": [],
    "AssociatedRoles": [],
    "CustomerOwnedIpEnabled": False,
    "ActivityStreamStatus": "stopped",
    "DedicatedLogVolume": False,
}
"""What an instance of this version always has, because `unbuilt.refuse_unbuilt` takes nothing else."""


def _asked_for(instance: DBInstance) -> dict[str, Any]:
    """What the user chose, under the API's names."""
    return {
        "DBInstanceIdentifier": instance.db_instance_identifier,
        "DbiResourceId": instance.dbi_resource_id,
        "DBInstanceArn": instance.arn,
        "DBInstanceClass": instance.db_instance_class,
        "Engine": instance.engine,
        "EngineVersion": instance.engine_version,
        "EngineLifecycleSupport": "open-source-rds-extended-support-disabled",
        "LicenseModel": instance.license_model,
        "MasterUsername": instance.master_username,
        "DBName": instance.db_name or None,
        "AllocatedStorage": instance.allocated_storage_gib,
        "MaxAllocatedStorage": instance.max_allocated_storage_gib,
        "StorageType": instance.storage_type,
        "Iops": instance.iops,
        "StorageThroughput": instance.storage_throughput,
        "BackupRetentionPeriod": instance.backup_retention_period_days,
        "BackupTarget": "region",
        "StorageEncrypted": instance.storage_encrypted,
        "KmsKeyId": instance.kms_key_id or None,
        "MultiAZ": instance.multi_az,
        "PreferredBackupWindow": instance.preferred_backup_window,
        "PreferredMaintenanceWindow": instance.preferred_maintenance_window,
        "AutoMinorVersionUpgrade": instance.auto_minor_version_upgrade,
        "CopyTagsToSnapshot": instance.copy_tags_to_snapshot,
        "IAMDatabaseAuthenticationEnabled": instance.iam_database_authentication_enabled,
        "DeletionProtection": instance.deletion_protection,
        "EnabledCloudwatchLogsExports": list(instance.enabled_cloudwatch_logs_exports) or None,
        "TagList": tag_list(instance.tags),
    }


def _network(instance: DBInstance, node: Node | None) -> dict[str, Any]:
    return {
        "AvailabilityZone": instance.availability_zone,
        "SecondaryAvailabilityZone": instance.secondary_availability_zone if instance.multi_az else None,
        "VpcSecurityGroups": [
            {"VpcSecurityGroupId": group_id, "Status": "active"} for group_id in instance.vpc_security_group_ids
        ],
        "PubliclyAccessible": instance.publicly_accessible,
        "NetworkType": instance.network_type,
        "DbInstancePort": 0,
        "CACertificateIdentifier": instance.ca_certificate_identifier,
        "CertificateDetails": {
            "CAIdentifier": instance.ca_certificate_identifier,
            "ValidTill": None if node is None else valid_till(node.spec.certificate.certificate_pem),
        },
    }


def parameter_apply_status(instance: DBInstance, node: Node | None, seen: NodeStatus | None) -> str:
    """in-sync, applying, pending-reboot or failed-to-apply (RDS user guide, "Working with parameter groups")."""
    if instance.held_parameters or instance.parameter_group_in_force != instance.db_parameter_group_name:
        return "pending-reboot"
    if seen is None or node is None:
        return "in-sync"
    if seen.pending_restart:
        return "pending-reboot"
    if seen.fatal:
        return "failed-to-apply"
    return "in-sync" if seen.settled_generation >= node.spec.generation else "applying"


def _pending(instance: DBInstance) -> dict[str, Any]:
    values = {member: getattr(instance.pending, field) for field, member in PENDING_MEMBERS.items()}
    pending = {member: value for member, value in values.items() if value is not None}
    if instance.pending_master_password:
        pending["MasterUserPassword"] = "****"
    return pending
