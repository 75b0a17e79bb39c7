"""DescribeDBInstanceAutomatedBackups and DeleteDBInstanceAutomatedBackup.

Source: RDS API reference; RDS user guide, "Retaining automated backups".
"""

from __future__ import annotations

from typing import Any

from mainstay.decide.rds_tags import tag_list
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import RETAINED, DBInstanceAutomatedBackup
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import on_arn_if_given
from mainstay.services.rds.filters import select
from mainstay.services.rds.paging import page
from mainstay.services.rds.promises import window_of
from mainstay.services.rds.snapshot_view import show_facts
from mainstay.services.rds.table import handles
from mainstay.store import Reader
from mainstay.workflows.automated_backups import end_automated_backups
from mainstay.workflows.fleet import Fleet, last_seen_leader
from mainstay.workflows.replicate_backups import copies_of


def _not_found(named: str) -> ApiError:
    return ApiError("DBInstanceAutomatedBackupNotFoundFault", f"DBInstanceAutomatedBackup {named} not found.")


@handles("DescribeDBInstanceAutomatedBackups", on_arn_if_given("DBInstanceAutomatedBackupsArn"))
def describe_db_instance_automated_backups(call: Call, request: Request) -> Result:
    """Those of living instances and the retained ones of deleted ones, a page at a time."""
    found = call.tx.scan(DBInstanceAutomatedBackup, call.scope)
    dbi_resource_id, arn = request.get("DbiResourceId"), request.get("DBInstanceAutomatedBackupsArn")
    if arn:
        found = [one for one in found if one.arn == arn]
    if dbi_resource_id:
        found = [one for one in found if one.facts.dbi_resource_id.lower() == dbi_resource_id.lower()]
    if (arn or dbi_resource_id) and not found:
        raise _not_found(str(arn or dbi_resource_id))
    if request.get("DBInstanceIdentifier"):
        wanted = request["DBInstanceIdentifier"].lower()
        found = [one for one in found if one.facts.db_instance_identifier == wanted]
    shown, more = page(select(found, request, _COLUMNS), lambda one: one.facts.dbi_resource_id, request)
    return {"DBInstanceAutomatedBackups": [show_automated_backup(call, one) for one in shown]} | more


_COLUMNS = {
    "status": lambda one: (one.status,),
    "db-instance-id": lambda one: (one.facts.db_instance_identifier, one.instance_arn),
    "dbi-resource-id": lambda one: (one.facts.dbi_resource_id,),
}


@handles("DeleteDBInstanceAutomatedBackup", on_arn_if_given("DBInstanceAutomatedBackupsArn"))
def delete_db_instance_automated_backup(call: Call, request: Request) -> Result:
    """Removes retained backups before their time."""
    dbi_resource_id, arn = request.get("DbiResourceId"), request.get("DBInstanceAutomatedBackupsArn")
    if bool(dbi_resource_id) == bool(arn):
        raise invalid_combination("Exactly one of DbiResourceId and DBInstanceAutomatedBackupsArn must be specified.")
    named = str(dbi_resource_id or arn)
    matching = [
        one
        for one in call.tx.scan(DBInstanceAutomatedBackup, call.scope)
        if (one.arn == arn if arn else one.facts.dbi_resource_id.lower() == named.lower())
    ]
    if not matching:
        raise _not_found(named)
    backup = matching[0]
    if backup.status != RETAINED:
        raise ApiError(
            "InvalidDBInstanceAutomatedBackupStateFault",
            f"The automated backups of {backup.facts.db_instance_identifier} are in the {backup.status} state; only"
            " retained ones can be deleted. Set the backup retention period of the DB instance to 0 instead.",
        )
    shown = show_automated_backup(call, backup)
    end_automated_backups(call.tx, call.clock.wall(), backup)
    return {"DBInstanceAutomatedBackup": shown | {"Status": "deleting"}}


def show_replications(reader: Reader, one: DBInstanceAutomatedBackup) -> list[dict[str, str]]:
    """DBInstanceAutomatedBackupsReplications: the copies in other regions, which have none of their own."""
    copies = [] if one.copy_of else copies_of(reader, one.facts.dbi_resource_id)
    return [{"DBInstanceAutomatedBackupsArn": copy.arn} for copy in copies]


def show_automated_backup(call: Call, one: DBInstanceAutomatedBackup) -> dict[str, Any]:
    """The `DBInstanceAutomatedBackup` structure of the API."""
    facts = one.facts
    found = call.tx.find(DBInstance, one.scope, "dbi-resource-id", facts.dbi_resource_id)
    fleet = call.use(Fleet)  # type: ignore[type-abstract]  # the Protocol is the key of the collaborator
    window = window_of(call.tx, one, last_seen_leader(fleet, found[0]) if found else None)
    shown = show_facts(facts) | {
        "DBInstanceArn": one.instance_arn,
        "DBInstanceAutomatedBackupsArn": one.arn,
        "Region": (one.copy_of or one.scope).region,
        "Status": one.status,
        "RestoreWindow": None
        if window is None
        else {"EarliestTime": window.earliest_at, "LatestTime": window.latest_at},
        "BackupRetentionPeriod": one.backup_retention_period_days,
        "BackupTarget": "region",
        "DBInstanceAutomatedBackupsReplications": show_replications(call.tx, one),
        "TagList": tag_list(one.tags),
    }
    return {name: value for name, value in shown.items() if value is not None}
