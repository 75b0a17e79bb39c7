"""Members of instance requests whose feature this version does not have.

A member at the value that means "off" is taken; any other value is refused in words, because a database that is thought
to have a protection, and has none, is worse than no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstay.engines.base import EngineRules, Feature
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import invalid_combination

_OFF: Mapping[str, tuple[tuple[object, ...], str]] = {
    "MonitoringInterval": ((0,), "Enhanced Monitoring"),
    "MonitoringRoleArn": (("",), "Enhanced Monitoring"),
    "EnablePerformanceInsights": ((False,), "Performance Insights"),
    "PerformanceInsightsKMSKeyId": ((), "Performance Insights"),
    "DatabaseInsightsMode": (("standard",), "Advanced Database Insights"),
    "MasterUserAuthenticationType": (("password",), "Master users made for IAM database authentication"),
    "EnableCloudwatchLogsExports": (([],), "Log exports to CloudWatch Logs"),
    "Domain": (("",), "Directory domains"),
    "DBClusterIdentifier": ((), "DB clusters"),
    "SourceDBClusterIdentifier": ((), "DB clusters"),
    "UpgradeStorageConfig": ((False,), "Upgrades of the storage configuration"),
    "AdditionalStorageVolumes": (([],), "Additional storage volumes"),
    "EnableCustomerOwnedIp": ((False,), "Customer-owned addresses"),
    "DedicatedLogVolume": ((False,), "Dedicated log volumes"),
    "TdeCredentialArn": ((), "Transparent data encryption"),
    "CustomIamInstanceProfile": ((), "RDS Custom"),
    "CharacterSetName": ((), "Character sets chosen at creation"),
    "NetworkType": (("IPV4",), "Dual-stack instances"),
    "ReplicaMode": ((), "Replica modes"),
    "DisableDomain": ((False,), "Directory domains"),
    "NcharCharacterSetName": ((), "Character sets chosen at creation"),
    "Timezone": (("",), "Time zones chosen at creation"),
    "DBSystemId": ((), "RDS for Oracle"),
    "AutomationMode": (("full",), "RDS Custom"),
    "AwsBackupRecoveryPointArn": (("",), "AWS Backup"),
    "TagSpecifications": (([],), "Tags given to automated backups by an instance request"),
}


_OF_ENGINES: Mapping[str, Feature] = {
    "BackupRetentionPeriod": Feature.BACKUPS,
    "EnableIAMDatabaseAuthentication": Feature.IAM_LOGIN,
    "MultiAZ": Feature.MULTI_AZ,
}


def refuse_unbuilt(request: Mapping[str, Any]) -> None:
    """Raises `ApiError` InvalidParameterCombination naming the first feature asked for that is not there."""
    for member, (off, feature) in _OFF.items():
        if member in request and request[member] not in off:
            raise invalid_combination(
                f"{feature}: not available in this version of Mainstay. Leave {member} out of the request"
                + (f" or set it to {off[0]!r}." if off else ".")
            )
    if request.get("CloudwatchLogsExportConfiguration", {}).get("EnableLogTypes"):
        raise invalid_combination(
            "Log exports to CloudWatch Logs: not available in this version of Mainstay. Leave"
            " CloudwatchLogsExportConfiguration out of the request, or have no EnableLogTypes in it."
        )


def refuse_unbuilt_of(rules: EngineRules, request: Mapping[str, Any]) -> None:
    """Raises `ApiError` InvalidParameterCombination if the request turns on what this engine has not (yet)."""
    for member, feature in _OF_ENGINES.items():
        if request.get(member):
            require_feature(rules, feature)


def refuse_lacking(rules: EngineRules, build: EngineBuild, request: Mapping[str, Any]) -> None:
    """Raises `ApiError` InvalidParameterCombination if the request turns on what this build was made without."""
    for member, feature in _OF_ENGINES.items():
        if request.get(member) and feature in rules.lacks(build):
            raise invalid_combination(
                f"{feature}: not available with the {build.engine} {build.version} in {build.prefix}."
                f" `mainstay engines install {build.engine} {build.major}` on the host brings one that has it."
            )


def require_feature(rules: EngineRules, feature: Feature) -> None:
    """Raises `ApiError` InvalidParameterCombination unless the engine has the feature."""
    if feature not in rules.features:
        raise invalid_combination(f"{feature}: not available for engine {rules.name} in this version of Mainstay.")
