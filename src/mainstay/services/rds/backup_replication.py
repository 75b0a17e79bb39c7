"""Replication of an instance's automated backups into the region of the call.

Source: RDS API reference, StartDBInstanceAutomatedBackupsReplication and StopDBInstanceAutomatedBackupsReplication.
"""

from __future__ import annotations

import msgspec

from mainstay.decide.identifiers import parse_arn
from mainstay.decide.rds_tags import with_tags
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import RETAINED, DBInstanceAutomatedBackup
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.model.records import Scope
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.automated_backups import show_automated_backup
from mainstay.services.rds.backup_settings import RETENTION_DAYS_MAX, makings
from mainstay.services.rds.demands import on
from mainstay.services.rds.encryption import key_for_backup_copy
from mainstay.services.rds.quotas import REPLICATED_AUTOMATED_BACKUPS, require_room
from mainstay.services.rds.table import handles
from mainstay.workflows.automated_backups import backup_record
from mainstay.workflows.replicate_backups import begin_replication, stop_replication

RETENTION_DAYS_DEFAULT = 7


@handles("StartDBInstanceAutomatedBackupsReplication", on("db", "SourceDBInstanceArn"))
def start_db_instance_automated_backups_replication(call: Call, request: Request) -> Result:
    """Records the copy as `pending`; it is `replicating` from its first complete backup on.

    One service serves all regions: PreSignedUrl and SourceRegion are not needed.
    """
    source = _instance(call, request["SourceDBInstanceArn"])
    backup = backup_record(call.tx, source)
    if backup is None or not source.backup_retention_period_days:
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"Automated backups are not enabled for {source.db_instance_identifier}: there is nothing to replicate.",
        )
    days: int = request.get("BackupRetentionPeriod", RETENTION_DAYS_DEFAULT)
    if not 1 <= days <= RETENTION_DAYS_MAX:
        raise invalid_value(
            f"Invalid backup retention period: {days}. The retention period of replicated backups must be between 1 and"
            f" {RETENTION_DAYS_MAX} days."
        )
    key = key_for_backup_copy(call, request, source)
    kms_key_id = "" if key is None else key.arn
    known = call.tx.get(DBInstanceAutomatedBackup, call.scope, source.dbi_resource_id)
    _check_known(known, source, kms_key_id)
    if known is None:
        used = [one for one in call.tx.scan(DBInstanceAutomatedBackup, call.scope) if one.copy_of is not None]
        require_room(len(used), REPLICATED_AUTOMATED_BACKUPS, "DBInstanceAutomatedBackupQuotaExceededFault",
                     "replicated automated backups")  # fmt: skip
    copy = begin_replication(call.tx, makings(call), call.scope, backup, days, kms_key_id)
    tags = with_tags(copy.tags, request.get("Tags") or ())
    if tags != copy.tags:
        copy = msgspec.structs.replace(copy, tags=tags)
        call.tx.put(copy)
    return {"DBInstanceAutomatedBackup": show_automated_backup(call, copy)}


def _check_known(known: DBInstanceAutomatedBackup | None, source: DBInstance, kms_key_id: str) -> None:
    """A copy that was stopped goes on; a second one there is not."""
    if known is None:
        return
    if known.status != RETAINED:
        raise ApiError(
            "InvalidDBInstanceAutomatedBackupStateFault",
            f"The automated backups of {source.arn} are being replicated to {known.scope.region} already.",
        )
    if known.facts.kms_key_id != kms_key_id:
        raise invalid_combination(
            f"The retained automated backups of {source.arn} in {known.scope.region} are under another KMS key. Delete"
            " them with DeleteDBInstanceAutomatedBackup first, or name their key."
        )


@handles("StopDBInstanceAutomatedBackupsReplication", on("db", "SourceDBInstanceArn"))
def stop_db_instance_automated_backups_replication(call: Call, request: Request) -> Result:
    """What was replicated is retained until its retention period is over."""
    arn = request["SourceDBInstanceArn"]
    copies = [one for one in call.tx.scan(DBInstanceAutomatedBackup, call.scope) if one.copy_of is not None]
    copy = next((one for one in copies if one.instance_arn == arn and one.status != RETAINED), None)
    if copy is None:
        _instance(call, arn)
        raise ApiError(
            "InvalidDBInstanceStateFault", f"The automated backups of {arn} are not replicated to {call.scope.region}."
        )
    stopped = stop_replication(call.tx, call.clock.wall(), copy)
    return {"DBInstanceAutomatedBackup": show_automated_backup(call, stopped)}


def _instance(call: Call, text: str) -> DBInstance:
    """The instance of another region that the ARN names."""
    arn = parse_arn(text)
    parts = text.split(":")
    if arn is None or len(parts) != 7 or parts[5] != "db":
        raise invalid_value(f"The parameter SourceDBInstanceArn is not the ARN of a DB instance: {text[:200]}")
    if parts[3] == call.scope.region:
        raise invalid_value(
            f"Automated backups are replicated to another region, and {call.scope.region} is the source's own."
        )
    scope = Scope(parts[4], parts[3])
    found = call.tx.get(DBInstance, scope, parts[6]) if scope.account_id == call.scope.account_id else None
    if found is None:
        raise ApiError("DBInstanceNotFoundFault", f"DBInstance {text[:200]} not found.")
    return found
