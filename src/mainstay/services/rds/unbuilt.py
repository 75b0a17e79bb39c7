"""Members of instance requests whose feature this version does not have.

A member at the value that means "off" is taken; any other value is refused in words, because a database that is thought
to have a standby, a backup or encryption, and has none, is worse than no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstay.model.errors import invalid_combination

_OFF: Mapping[str, tuple[tuple[object, ...], str]] = {
    "MultiAZ": ((False,), "Multi-AZ instances"),
    "StorageEncrypted": ((False,), "Storage encryption"),
    "KmsKeyId": ((), "Storage encryption"),
    "BackupRetentionPeriod": ((0,), "Automated backups"),
    "EnableIAMDatabaseAuthentication": ((False,), "IAM database authentication"),
    "MonitoringInterval": ((0,), "Enhanced Monitoring"),
    "MonitoringRoleArn": (("",), "Enhanced Monitoring"),
    "EnablePerformanceInsights": ((False,), "Performance Insights"),
    "PerformanceInsightsKMSKeyId": ((), "Performance Insights"),
    "DatabaseInsightsMode": (("standard",), "Advanced Database Insights"),
    "ManageMasterUserPassword": ((False,), "Master passwords kept in Secrets Manager"),
    "MasterUserSecretKmsKeyId": ((), "Master passwords kept in Secrets Manager"),
    "MasterUserAuthenticationType": (("password",), "IAM database authentication"),
    "EnableCloudwatchLogsExports": (([],), "Log exports to CloudWatch Logs"),
    "Domain": (("",), "Directory domains"),
    "DBClusterIdentifier": ((), "DB clusters"),
    "EnableCustomerOwnedIp": ((False,), "Customer-owned addresses"),
    "DedicatedLogVolume": ((False,), "Dedicated log volumes"),
    "TdeCredentialArn": ((), "Transparent data encryption"),
    "CustomIamInstanceProfile": ((), "RDS Custom"),
    "CharacterSetName": ((), "Character sets chosen at creation"),
    "NetworkType": (("IPV4",), "Dual-stack instances"),
    "MaxAllocatedStorage": ((), "Storage autoscaling"),
    "RotateMasterUserPassword": ((False,), "Master passwords kept in Secrets Manager"),
    "ReplicaMode": ((), "Read replicas"),
    "DisableDomain": ((False,), "Directory domains"),
}


def refuse_unbuilt(request: Mapping[str, Any]) -> None:
    """Raises `ApiError` InvalidParameterCombination naming the first feature asked for that is not there."""
    for member, (off, feature) in _OFF.items():
        if member in request and request[member] not in off:
            raise invalid_combination(
                f"{feature}: not available in this version of Mainstay. Leave {member} out of the request"
                + (f" or set it to {off[0]!r}." if off else ".")
            )
