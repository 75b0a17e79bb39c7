"""Restores in place, and the data that they set aside: an extension, which the API of RDS does not have.

The instance stays what it is; other data takes the place of its data, which is kept on the same volume.
"""

from __future__ import annotations

import shutil
import time

import msgspec

from mainstay.decide.db_instance_status import accepts_changes
from mainstay.decide.restore_window import Gap, moment_text
from mainstay.engines.base import Feature
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DataChange, DBInstance, KeptData, RestoreFrom
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.model.repository_job import BackupFacts
from mainstay.services.operations import Call
from mainstay.services.rds.instance_actions import begin
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.promises import complete_backups, promise_of
from mainstay.services.rds.refresh import request_refresh
from mainstay.services.rds.restore_further import Place, seen_source, source_of_place
from mainstay.services.rds.unbuilt import require_feature
from mainstay.workflows.automated_backups import backup_record, note_gap
from mainstay.workflows.db_instances import restarted
from mainstay.workflows.exchange_data import EXCHANGE, PART_PAIR
from mainstay.workflows.fleet import Fleet, last_seen_leader
from mainstay.workflows.node_specs import replicas_of
from mainstay.workflows.replicate_backups import copies_of

KEPT_MAX = 5
NAME_CHARACTERS = 8
RENAME_INSTEAD = (
    "Restore into a new DB instance, and let the two change names: ModifyDBInstance with NewDBInstanceIdentifier, first"
    " of this one, then of the new one."
)
ROOM_FACTOR = 1.25
"""Room that must be there, as a part of the backup's size: its log needs some too."""


def restore_in_place(call: Call, instance: DBInstance, place: Place) -> str:
    """Begins it; the name under which the present data is kept. Raises `ApiError` for what cannot be done."""
    _require_exchangeable(call, instance)
    _require_few(instance)
    backup = backup_record(call.tx, instance)
    if backup is None:
        raise ApiError(
            "PointInTimeRestoreNotEnabledFault",
            f"Point in time restore is not enabled for instance {instance.db_instance_identifier}",
        )
    source = source_of_place(call, backup, place)
    base = _base(call, backup, source)
    rules = call.use(Engines).rules(instance.engine)
    if rules.major_of(base.engine_version) != rules.major_of(instance.engine_version):
        raise invalid_combination(
            f"The backup is of version {base.engine_version}, the DB instance of {instance.engine_version}. Restore"
            " into a new DB instance."
        )
    _require_room(call, instance, base)
    moment = base.consistent_at if source.target.at is None else source.target.at
    told = f"The DB instance was restored in place {_words(source)}."
    return _exchange(call, instance, backup, moment, told, restore_from=source)


def go_back(call: Call, instance: DBInstance, name: str) -> str:
    """Begins to bring back what is kept under this name; the name under which the present data is kept."""
    _require_exchangeable(call, instance)
    kept = _kept(instance, name)
    if kept.foreign:
        _require_no_backups(call, instance)
    moment = kept.kept_at if kept.until is None else kept.until
    told = f"The DB instance was taken back to the data of {moment_text(kept.kept_at)}."
    if kept.imported:
        told = f"The DB instance was given the data {kept.described}"
    backup = backup_record(call.tx, instance)
    return _exchange(call, instance, backup, moment, told, wanted=name, foreign=kept.foreign)


def expect_import(call: Call, instance: DBInstance, origin: str) -> str:
    """The name under which imported data is to be put beside the instance's data, for `go_back` to take it."""
    _require_exchangeable(call, instance)
    _require_no_backups(call, instance)
    _require_few(instance)
    kept = KeptData(
        name=_new_name(call),
        kept_at=call.clock.wall(),
        described=f"imported from {origin[:200]}.",
        imported=True,
        foreign=True,
        node_id=_node_of_pair(instance),
    )
    instance = msgspec.structs.replace(instance, kept_data=(*instance.kept_data, kept))
    call.tx.put(instance)
    request_refresh(call, instance)
    return kept.name


def discard(call: Call, instance: DBInstance, name: str) -> None:
    """What is kept under this name is removed for good."""
    if instance.exchange is not None:
        raise ApiError(
            "InvalidDBInstanceStateFault", f"The data of {instance.db_instance_identifier} is being exchanged."
        )
    gone = _kept(instance, name)
    left = tuple(one for one in instance.kept_data if one is not gone)
    instance = msgspec.structs.replace(instance, kept_data=left)
    call.tx.put(instance)
    request_refresh(call, instance)


def _exchange(
    call: Call,
    instance: DBInstance,
    backup: DBInstanceAutomatedBackup | None,
    moment: float,
    told: str,
    *,
    wanted: str = "",
    restore_from: RestoreFrom | None = None,
    foreign: bool = False,
) -> str:
    """Recorded first as a gap of the log: what happened after the moment is no part of the history any more.

    Of a pair that is recorded when it has been parted.
    """
    now = call.clock.wall()
    aside = instance.data_name if instance.exchange is None else instance.exchange.wanted
    aside = aside or _new_name(call)
    until = None if backup is None else promise_of(backup, seen_source(call, backup)).latest_at
    known = {one.name: one for one in instance.kept_data}
    node_id = _node_of_pair(instance)
    known[aside] = KeptData(name=aside, kept_at=now, until=until, described=told, foreign=foreign, node_id=node_id)
    change = DataChange(wanted=wanted or _new_name(call), aside=aside, restore_from=restore_from, node_id=node_id)
    frame = {"moment": moment, "told": f"{told} What was there is kept: {aside}."}
    instance = msgspec.structs.replace(instance, kept_data=tuple(known.values()), exchange=change)
    if instance.multi_az:
        begin(call, msgspec.structs.replace(instance, multi_az=False, failure=""), PART_PAIR, "modifying", frame)
    else:
        if backup is not None:
            note_gap(call.tx, backup, Gap(since=moment, until=now), now)
        begin(call, restarted(instance), EXCHANGE, "modifying", frame)
    return aside


def _node_of_pair(instance: DBInstance) -> str:
    """The node on whose volume data is set aside, where there are two."""
    return instance.node_id if instance.multi_az else ""


def _new_name(call: Call) -> str:
    stamp = time.strftime("%Y%m%dt%H%M%Sz", time.gmtime(call.clock.wall()))
    return f"{stamp}-{call.randomness.text(NAME_CHARACTERS, '0123456789abcdef')}"


def _words(source: RestoreFrom) -> str:
    target = source.target
    if target.at is not None:
        return f"to {moment_text(target.at)}"
    return f"to the position {target.position}" if target.position else f"to the transaction {target.transaction}"


def _kept(instance: DBInstance, name: str) -> KeptData:
    found = next((one for one in instance.kept_data if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in instance.kept_data) or "nothing"
        raise invalid_value(f"{instance.db_instance_identifier} keeps no data {name[:60]!r} aside, but {names}.")
    return found


def _base(call: Call, backup: DBInstanceAutomatedBackup, source: RestoreFrom) -> BackupFacts:
    return next(one for one in complete_backups(call.tx, backup) if one.backup_id == source.backup_id)


def _require_no_backups(call: Call, instance: DBInstance) -> None:
    if backup_record(call.tx, instance) is not None:
        raise invalid_combination(
            f"{instance.db_instance_identifier} has automated backups, and imported data has another history. Set"
            " BackupRetentionPeriod to 0 (with ApplyImmediately), do it, and set it again."
        )


def _require_few(instance: DBInstance) -> None:
    if len(instance.kept_data) >= KEPT_MAX:
        raise invalid_value(f"{len(instance.kept_data)} other data are kept aside already. Discard some of them first.")


def _require_exchangeable(call: Call, instance: DBInstance) -> None:
    require_feature(call.use(Engines).rules(instance.engine), Feature.DATA_EXCHANGE)
    name = instance.db_instance_identifier
    if not accepts_changes(InstanceView(call).status(instance)):
        raise ApiError("InvalidDBInstanceStateFault", f"Instance {name} is not in available state.")
    if instance.pending.multi_az is not None:
        raise invalid_combination(
            f"{name} is to be converted in its next maintenance window. Let that be done first (ApplyImmediately), or"
            " take it back by asking for what it is now."
        )
    if instance.keeping_node_id not in ("", instance.node_id):
        raise invalid_combination(
            f"What {name} keeps aside is on the node in {instance.secondary_availability_zone}, which follows now. Make"
            " that one lead first (RebootDBInstance with ForceFailover), or discard what is kept."
        )
    if instance.source_dbi_resource_id or replicas_of(call.tx, instance):
        raise invalid_combination(f"{name} has read replicas or is one, and they have one history. {RENAME_INSTEAD}")
    if copies_of(call.tx, instance.dbi_resource_id):
        raise invalid_combination(
            f"The backups of {name} are replicated to another region, where they have one history. {RENAME_INSTEAD} Or"
            " stop the replication first."
        )


def _require_room(call: Call, instance: DBInstance, base: BackupFacts) -> None:
    """The present data stays beside the restored."""
    seen = last_seen_leader(call.use(Fleet), instance)  # type: ignore[type-abstract]
    home, needed = call.settings.home, base.size_bytes * ROOM_FACTOR
    free = None
    if seen is not None and seen.size_bytes:
        free = seen.free_bytes
    elif home.exists():
        free = shutil.disk_usage(home).free
    if free is not None and free < needed:
        raise invalid_value(
            f"The present data stays beside the restored, which needs {needed / (1 << 30):.1f} GiB, and only"
            f" {free / (1 << 30):.1f} GiB are free. Increase AllocatedStorage, or restore into a new DB instance."
        )
