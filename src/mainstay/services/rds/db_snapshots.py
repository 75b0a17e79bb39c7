"""CreateDBSnapshot, DescribeDBSnapshots, ModifyDBSnapshot, DeleteDBSnapshot and who may restore a snapshot.

Source: RDS API reference; RDS user guide, "Creating a DB snapshot" and "Sharing a DB snapshot".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from mainstay.decide.identifiers import check_db_snapshot_identifier
from mainstay.decide.rds_tags import with_tags
from mainstay.engines.base import Feature
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import ALL_ACCOUNTS, AUTOMATED, AVAILABLE, FAILED, MANUAL, DBSnapshot
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.backup_settings import makings
from mainstay.services.rds.create_db_instance import chosen_option_group, resolve_build
from mainstay.services.rds.db_instances import find_instance, require_available
from mainstay.services.rds.demands import creates, on
from mainstay.services.rds.encryption import check_sharing
from mainstay.services.rds.engine_versions import require_upgradable
from mainstay.services.rds.events import record_event
from mainstay.services.rds.filters import select
from mainstay.services.rds.paging import page
from mainstay.services.rds.quotas import MANUAL_SNAPSHOTS, SHARED_ACCOUNTS_PER_SNAPSHOT, require_room
from mainstay.services.rds.snapshot_view import find_snapshot, may_use, not_found, require_manual, show_snapshot
from mainstay.services.rds.table import handles
from mainstay.services.rds.unbuilt import require_feature
from mainstay.workflows.automated_backups import backed_up_when_promoted
from mainstay.workflows.encryption import require_key
from mainstay.workflows.make_db_snapshot import begin_snapshot, new_backup_id
from mainstay.workflows.reclaim_repository import being_read, request_reclaim_in
from mainstay.workflows.repositories import repository_of

RESTORE = "restore"
TYPES = (MANUAL, AUTOMATED, "shared", "public", "awsbackup")
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)


def new_snapshot(
    call: Call,
    instance: DBInstance,
    name: str,
    tags: Mapping[str, str],
    member: str = "DBSnapshotIdentifier",
    *,
    clone: bool = False,
) -> tuple[DBInstance, DBSnapshot]:
    """Begins a manual snapshot of the instance; returns the instance, not recorded, with a place for its backups.

    `clone`: as for `begin_snapshot`. Not for the last one of an instance: what is written while it is stored would
    not be in it.

    Raises the `ApiError` that RDS gives for a name that is invalid or taken, and at the quota.
    """
    rules = call.use(Engines).rules(instance.engine)
    require_feature(rules, Feature.BACKUPS)
    if backed_up_when_promoted(rules, instance) and instance.backup_retention_period_days:
        raise _not_before_its_promotion(instance)
    identifier = check_new_name(call, name, member)
    if instance.storage_encrypted:
        require_key(call.tx, instance.kms_key_id)
    instance, _repository = repository_of(call.tx, makings(call), instance)
    backup_id = new_backup_id(call.randomness, call.clock.wall())
    row = begin_snapshot(call.tx, call.clock, instance, identifier, backup_id, tags=tags, clone=clone)
    return instance, row


def _not_before_its_promotion(instance: DBInstance) -> ApiError:
    """It would be tried in vain for minutes, while the instance is of no use to whoever wants to change it."""
    return ApiError(
        "InvalidDBInstanceStateFault",
        f"Cannot create a snapshot of {instance.db_instance_identifier}: a read replica of {instance.engine} that has"
        " automated backups turned on is backed up when it has been promoted. Make a snapshot of its source, or turn"
        " them off first (BackupRetentionPeriod 0).",
    )


def check_new_name(call: Call, name: str, member: str) -> str:
    """The identifier of a manual snapshot that is to be made, as it is stored."""
    identifier = check_db_snapshot_identifier(name, member)
    if call.tx.get(DBSnapshot, call.scope, identifier) is not None:
        raise ApiError(
            "DBSnapshotAlreadyExistsFault",
            f"Cannot create the snapshot because a snapshot with the identifier {identifier} already exists.",
        )
    used = sum(row.snapshot_type == MANUAL for row in call.tx.scan(DBSnapshot, call.scope))
    require_room(used, MANUAL_SNAPSHOTS, "SnapshotQuotaExceededFault", "manual snapshots")
    return identifier


@handles("CreateDBSnapshot", creates("snapshot", "DBSnapshotIdentifier"), on("db", "DBInstanceIdentifier"))
def create_db_snapshot(call: Call, request: Request) -> Result:
    """Records the snapshot as `creating` and starts the workflow; the instance is `backing-up` until it is there."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    require_available(call, instance)
    tags = with_tags(instance.tags if instance.copy_tags_to_snapshot else {}, request.get("Tags") or ())
    instance, row = new_snapshot(call, instance, request["DBSnapshotIdentifier"], tags, clone=True)
    call.tx.put(msgspec.structs.replace(instance, change="backing-up"))
    return {"DBSnapshot": show_snapshot(call, row)}


@handles("DescribeDBSnapshots", on("snapshot", "DBSnapshotIdentifier"))
def describe_db_snapshots(call: Call, request: Request) -> Result:
    """The account's own snapshots, or those of the type asked for, that pass the filters, a page at a time."""
    snapshot_type = request.get("SnapshotType")
    if snapshot_type and snapshot_type not in TYPES:
        raise invalid_value(f"Invalid snapshot type: {snapshot_type}. Valid values: {', '.join(TYPES)}")
    rows = _of_type(call, request, snapshot_type)
    named = request.get("DBSnapshotIdentifier")
    if named:
        rows = [row for row in rows if named.lower() in (row.db_snapshot_identifier, row.arn)]
        if not rows:
            raise not_found(named)
    if request.get("DBInstanceIdentifier"):
        wanted = request["DBInstanceIdentifier"].lower()
        rows = [row for row in rows if row.facts.db_instance_identifier == wanted]
    if request.get("DbiResourceId"):
        rows = [row for row in rows if row.facts.dbi_resource_id.lower() == request["DbiResourceId"].lower()]
    shown, more = page(select(rows, request, _COLUMNS), lambda row: row.arn, request)
    return {"DBSnapshots": [show_snapshot(call, row) for row in shown]} | more


def _of_type(call: Call, request: Request, snapshot_type: str | None) -> list[DBSnapshot]:
    own = call.tx.scan(DBSnapshot, call.scope)
    if snapshot_type in (MANUAL, AUTOMATED):
        return [row for row in own if row.snapshot_type == snapshot_type]
    if snapshot_type == "awsbackup":
        return []
    shared = snapshot_type == "shared" or (not snapshot_type and request.get("IncludeShared"))
    public = snapshot_type == "public" or (not snapshot_type and request.get("IncludePublic"))
    found = [] if snapshot_type else own
    if shared or public:
        for row in call.tx.scan(DBSnapshot):
            if row.scope.region != call.scope.region:
                continue
            is_public = ALL_ACCOUNTS in row.restore_accounts
            others = row.scope.account_id != call.scope.account_id and may_use(row, call.scope.account_id)
            if (public and is_public and row not in found) or (shared and others and not is_public):
                found.append(row)
    return found


_COLUMNS = {
    "db-instance-id": lambda row: (row.facts.db_instance_identifier, _instance_arn(row)),
    "db-snapshot-id": lambda row: (row.db_snapshot_identifier, row.arn),
    "dbi-resource-id": lambda row: (row.facts.dbi_resource_id,),
    "snapshot-type": lambda row: (row.snapshot_type,),
    "engine": lambda row: (row.facts.engine,),
}


def _instance_arn(row: DBSnapshot) -> str:
    return row.scope.arn("rds", f"db:{row.facts.db_instance_identifier}")


@handles("ModifyDBSnapshot", on("snapshot", "DBSnapshotIdentifier"), on("og", "OptionGroupName", optional=True))
def modify_db_snapshot(call: Call, request: Request) -> Result:
    """Which minor version a restore starts, and with which option group."""
    row = find_snapshot(call, request["DBSnapshotIdentifier"])
    require_manual(row, "modified")
    _require_available(row)
    facts = row.facts
    engines = call.use(Engines)
    rules = engines.rules(facts.engine)
    if request.get("EngineVersion"):
        build = resolve_build(engines, rules, request["EngineVersion"])
        require_upgradable("the snapshot", rules, facts.engine_version, build)
        facts = msgspec.structs.replace(facts, engine_version=build.version)
    if request.get("OptionGroupName"):
        major = rules.major_of(facts.engine_version)
        group = chosen_option_group(call, rules, major, request["OptionGroupName"])
        facts = msgspec.structs.replace(facts, option_group_name=group)
    row = msgspec.structs.replace(row, facts=facts)
    call.tx.put(row)
    return {"DBSnapshot": show_snapshot(call, row)}


@handles("DeleteDBSnapshot", on("snapshot", "DBSnapshotIdentifier"))
def delete_db_snapshot(call: Call, request: Request) -> Result:
    """Forgets a manual snapshot; what nothing else needs of its data is cleared away."""
    row = find_snapshot(call, request["DBSnapshotIdentifier"])
    require_manual(row, "deleted")
    if row.status not in (AVAILABLE, FAILED):
        raise ApiError(
            "InvalidDBSnapshotStateFault",
            f"Cannot delete the snapshot because it is currently in the {row.status} state.",
        )
    if row.local and row.backup_id in being_read(call.tx, row.repository_id):
        raise ApiError(
            "InvalidDBSnapshotStateFault",
            "Cannot delete the snapshot: it is still being stored, and something is being made of it.",
        )
    call.tx.delete(row)
    record_event(call.tx, call.clock, row, "RDS-EVENT-0041")
    request_reclaim_in(call.tx, call.clock.wall(), row.scope, row.repository_id)
    return {"DBSnapshot": show_snapshot(call, row) | {"Status": "deleted"}}


def _require_available(row: DBSnapshot) -> None:
    if row.status != AVAILABLE:
        raise ApiError(
            "InvalidDBSnapshotStateFault", f"Snapshot {row.db_snapshot_identifier} is not in available state."
        )


@handles("DescribeDBSnapshotAttributes", on("snapshot", "DBSnapshotIdentifier"))
def describe_db_snapshot_attributes(call: Call, request: Request) -> Result:
    """The one attribute there is, also where it is empty."""
    return _attributes(find_snapshot(call, request["DBSnapshotIdentifier"]))


@handles("ModifyDBSnapshotAttribute", on("snapshot", "DBSnapshotIdentifier"))
def modify_db_snapshot_attribute(call: Call, request: Request) -> Result:
    """Who else may copy and restore the snapshot: account ids, or `all`."""
    row = find_snapshot(call, request["DBSnapshotIdentifier"])
    if request["AttributeName"] != RESTORE:
        raise invalid_value(f"Invalid attribute name: {request['AttributeName']}. The only one is {RESTORE}.")
    require_manual(row, "shared")
    _require_available(row)
    added, removed = _accounts(request, "ValuesToAdd"), _accounts(request, "ValuesToRemove")
    accounts = dict.fromkeys((*row.restore_accounts, *added))
    for account_id in removed:
        accounts.pop(account_id, None)
    named = [account_id for account_id in accounts if account_id != ALL_ACCOUNTS]
    if len(named) > SHARED_ACCOUNTS_PER_SNAPSHOT:
        raise ApiError(
            "SharedSnapshotQuotaExceededFault",
            f"A snapshot can be shared with at most {SHARED_ACCOUNTS_PER_SNAPSHOT} accounts.",
        )
    if accounts:
        check_sharing(call, row, public=ALL_ACCOUNTS in accounts)
    row = msgspec.structs.replace(row, restore_accounts=tuple(sorted(accounts)))
    call.tx.put(row)
    return _attributes(row)


def _accounts(request: Request, member: str) -> Iterable[str]:
    values = [str(value) for value in request.get(member) or ()]
    for value in values:
        if value != ALL_ACCOUNTS and not _ACCOUNT.fullmatch(value):
            raise invalid_value(
                f"Invalid value {value[:64]} in {member}: an account id of 12 digits or 'all' is needed."
            )
    return values


def _attributes(row: DBSnapshot) -> dict[str, Any]:
    attribute = {"AttributeName": RESTORE, "AttributeValues": list(row.restore_accounts)}
    return {
        "DBSnapshotAttributesResult": {
            "DBSnapshotIdentifier": row.db_snapshot_identifier,
            "DBSnapshotAttributes": [attribute],
        }
    }
