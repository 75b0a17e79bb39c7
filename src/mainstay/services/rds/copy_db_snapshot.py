"""CopyDBSnapshot: a manual snapshot of what another one shows. Source: RDS API reference, CopyDBSnapshot.

A copy in the region and account of its source shares the source's data, which stays until neither needs it. A copy
into another region, of another account's snapshot, or under another KMS key, has data of its own, under a key of its
own: so a snapshot that is not encrypted becomes one that is. The other way there is none.
"""

from __future__ import annotations

import msgspec

from mainstay.decide.identifiers import parse_arn
from mainstay.decide.rds_tags import with_tags
from mainstay.engines.registry import Engines
from mainstay.model.db_snapshot import AVAILABLE, CREATING, MANUAL, DBSnapshot, InstanceFacts
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.backup_settings import makings
from mainstay.services.rds.create_db_instance import chosen_option_group
from mainstay.services.rds.db_snapshots import check_new_name
from mainstay.services.rds.demands import creates, on
from mainstay.services.rds.encryption import key_for_copy
from mainstay.services.rds.events import record_event
from mainstay.services.rds.snapshot_view import find_usable_snapshot, show_snapshot
from mainstay.services.rds.table import handles
from mainstay.workflows.make_db_snapshot import begin_copy
from mainstay.workflows.repositories import new_repository


@handles(
    "CopyDBSnapshot",
    on("snapshot", "SourceDBSnapshotIdentifier"),
    creates("snapshot", "TargetDBSnapshotIdentifier"),
    on("og", "OptionGroupName", optional=True),
)
def copy_db_snapshot(call: Call, request: Request) -> Result:
    """Records the copy; it is `available` at once where it shares its source's data.

    One service serves all regions: PreSignedUrl and SourceRegion are not needed.
    """
    _refuse_unbuilt(request)
    source = find_usable_snapshot(call, request["SourceDBSnapshotIdentifier"], anywhere=True)
    if source.status != AVAILABLE or source.backup is None:
        raise ApiError(
            "InvalidDBSnapshotStateFault", f"Snapshot {source.db_snapshot_identifier} is not in available state."
        )
    identifier = check_new_name(call, request["TargetDBSnapshotIdentifier"], "TargetDBSnapshotIdentifier")
    key = key_for_copy(call, request, source)
    kms_key_id = "" if key is None else key.arn
    row = _copy(call, request, source, identifier)
    if source.scope == call.scope and kms_key_id == source.facts.kms_key_id:
        call.tx.insert(row)
        for event_id in ("RDS-EVENT-0196", "RDS-EVENT-0197"):
            record_event(
                call.tx, call.clock, row, event_id,
                snapshot=source.db_snapshot_identifier, region=source.scope.region,
            )  # fmt: skip
    else:
        repository = new_repository(
            call.tx, makings(call), call.scope, source.facts.dbi_resource_id, source.facts.engine, kms_key_id
        )
        row = msgspec.structs.replace(
            row,
            facts=msgspec.structs.replace(row.facts, storage_encrypted=bool(kms_key_id), kms_key_id=kms_key_id),
            repository_id=repository.repository_id,
            backup=None,
            percent_progress=0,
            local=False,
            wrapped_volume_key="",
            snapshot_create_time=None,
        )
        row = begin_copy(call.tx, call.clock, row, source)
    return {"DBSnapshot": show_snapshot(call, row)}


def _refuse_unbuilt(request: Request) -> None:
    if request.get("TargetCustomAvailabilityZone") or request.get("SnapshotAvailabilityZone"):
        raise invalid_combination("Snapshots outside the region: not available in this version of Mainstay.")
    if request.get("SnapshotTarget") not in (None, "", "region"):
        raise invalid_value(f"Invalid snapshot target: {request['SnapshotTarget']}. The only one is region.")


def _copy(call: Call, request: Request, source: DBSnapshot, identifier: str) -> DBSnapshot:
    """The copy as it is when it shares its source's data."""
    now = call.clock.wall()
    arn = parse_arn(source.arn)
    copied_tags = source.tags if request.get("CopyTags") and source.scope.account_id == call.scope.account_id else {}
    return DBSnapshot(
        scope=call.scope,
        db_snapshot_identifier=identifier,
        snapshot_type=MANUAL,
        facts=_facts(call, request, source),
        repository_id=source.repository_id,
        backup_id=source.backup_id,
        status=AVAILABLE if source.scope == call.scope else CREATING,
        percent_progress=source.percent_progress,
        requested_at=now,
        snapshot_create_time=now,
        original_snapshot_create_time=source.original_snapshot_create_time,
        snapshot_database_time=source.snapshot_database_time,
        source_region=source.scope.region if arn is not None and source.scope.region != call.scope.region else "",
        source_db_snapshot_arn=source.arn,
        tags=with_tags(copied_tags, request.get("Tags") or ()),
        backup=source.backup,
        local=source.local,
        copied_because=source.copied_because,
        wrapped_volume_key=source.wrapped_volume_key,
        volume_key_owner=source.volume_key_owner,
    )


def _facts(call: Call, request: Request, source: DBSnapshot) -> InstanceFacts:
    """With the option group asked for; another region has the default one of the engine instead of the source's."""
    facts = source.facts
    named = request.get("OptionGroupName")
    if not named and source.scope == call.scope:
        return facts
    rules = call.use(Engines).rules(facts.engine)
    major = rules.major_of(facts.engine_version)
    if not named:
        return msgspec.structs.replace(facts, option_group_name=rules.default_option_group(major))
    group = chosen_option_group(call, rules, major, named)
    return msgspec.structs.replace(facts, option_group_name=group)
