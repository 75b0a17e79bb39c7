"""Restores that the API of RDS does not have: to a place in the log, and with a pause for a look."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from mainstay.decide.restore_window import base_backup, restore_window
from mainstay.engines.base import Feature
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance, RestoreFrom
from mainstay.model.db_snapshot import BackupRepository, DBInstanceAutomatedBackup
from mainstay.model.errors import ApiError, invalid_value
from mainstay.model.node import NodeStatus, RestoreProgress, RestoreTarget
from mainstay.services.operations import Call, Request
from mainstay.services.rds.promises import complete_backups, promise_of
from mainstay.services.rds.restore_db_instance import Restoring, new_identifier, restore, source_of_moment
from mainstay.services.rds.unbuilt import require_feature
from mainstay.workflows.db_instances import RESTORE, restarted
from mainstay.workflows.engine import bring_forward, new_job
from mainstay.workflows.fleet import Fleet, last_seen_leader


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a restore ends: exactly one of a moment (epoch seconds), the latest one, a position, a transaction."""

    at: float | None = None
    latest: bool = False
    position: str = ""
    transaction: str = ""

    @property
    def named(self) -> int:
        """How many are given."""
        return (self.at is not None) + self.latest + bool(self.position) + bool(self.transaction)


def restore_further(
    call: Call, request: Request, backup: DBInstanceAutomatedBackup, place: Place, *, paused: bool = False
) -> str:
    """Begins it, with the request's members of RestoreDBInstanceToPointInTime; the new instance's identifier.

    `paused`: at the place it waits, `open_paused` opens it and `move_paused` goes on. Of a position the newest backup
    before it is the base, of a transaction, whose place nobody knows, the oldest one. One that is not in the log is
    found out when its end is reached: the instance is `incompatible-restore` then.
    """
    if paused:
        require_feature(call.use(Engines).rules(backup.facts.engine), Feature.PAUSED_RESTORES)
    identifier = new_identifier(call, request["TargetDBInstanceIdentifier"])
    source = msgspec.structs.replace(source_of_place(call, backup, place), paused=paused)
    words = {"origin": source.described, "target": identifier}
    restoring = Restoring(facts=backup.facts, source=source, tags={}, event_id="RDS-EVENT-0019", words=words)
    restore(call, request, identifier, restoring)
    return identifier


def source_of_place(call: Call, backup: DBInstanceAutomatedBackup, place: Place) -> RestoreFrom:
    """Base and target. Raises `ApiError` for a place that the backups do not lead to."""
    if place.named != 1:
        raise invalid_value("Exactly one of a moment, the latest one, a position and a transaction must be given.")
    if place.position or place.transaction:
        return _source_in_log(call, backup, place)
    at = None if place.at is None else datetime.fromtimestamp(place.at, UTC)
    return source_of_moment(call, {"RestoreTime": at, "UseLatestRestorableTime": place.latest}, backup)


def _source_in_log(call: Call, backup: DBInstanceAutomatedBackup, place: Place) -> RestoreFrom:
    rules = call.use(Engines).rules(backup.facts.engine)
    position, transaction = place.position, place.transaction
    if transaction:
        rules.check_transaction(transaction)
    seen = seen_source(call, backup)
    promise = promise_of(backup, seen)
    backups = complete_backups(call.tx, backup)
    window = restore_window(backups, promise.latest_at, promise.gap)
    if window is None:
        raise ApiError("InvalidDBInstanceStateFault", "There is no moment to restore to yet.")
    inside = [one for one in backups if one.started_at >= promise.gap.until and one.consistent_at <= window.latest_at]
    if position:
        wanted = rules.log_position(position)
        inside = [one for one in inside if rules.log_position(one.stop_position) <= wanted]
        archived = "" if seen is None or seen.archive is None else seen.archive.position
        end = archived or backup.position
        if end and wanted > rules.log_position(end):
            raise invalid_value(f"The position {position} is not in the log yet, which is kept up to {end}.")
        base = base_backup(inside, window.latest_at, promise.gap)
    else:
        base = min(inside, key=lambda one: one.consistent_at, default=None)
    if base is None:
        raise invalid_value("No automated backup leads to this place in the log: all of them are later.")
    return RestoreFrom(
        repository_scope=backup.scope,
        repository_id=backup.repository_id,
        backup_id=base.backup_id,
        target=RestoreTarget(position=position, transaction=transaction, timeline=promise.timeline),
        described=backup.facts.db_instance_identifier,
    )


def seen_source(call: Call, backup: DBInstanceAutomatedBackup) -> NodeStatus | None:
    found = call.tx.find(DBInstance, call.scope, "dbi-resource-id", backup.facts.dbi_resource_id)
    return last_seen_leader(call.use(Fleet), found[0]) if found else None  # type: ignore[type-abstract]


def open_paused(call: Call, instance: DBInstance) -> None:
    """A restore that is paused for a look is opened as it is: it takes writes from then on.

    Raises `ApiError` for an instance that is none, or has not arrived yet.
    """
    source = _paused(instance)
    if not instance.failure:
        _arrived(call, instance)
    _go_on(call, instance, msgspec.structs.replace(source, paused=False))


def move_paused(call: Call, instance: DBInstance, place: Place) -> None:
    """A restore that is paused for a look, or could not reach where it was to go, goes on to a later place.

    Raises `ApiError` for an earlier place, which is behind it, and for one that the source's backups do not lead to.
    """
    source = _paused(instance)
    backup = _automated_backup(call, source)
    wanted = source_of_place(call, backup, place).target
    promise = promise_of(backup, seen_source(call, backup))
    base = next((one for one in complete_backups(call.tx, backup) if one.backup_id == source.backup_id), None)
    moment = promise.latest_at if wanted.at is None else wanted.at
    if base is None or (moment is not None and promise.gap.cuts(base, moment)):
        raise invalid_value("A part of the log that leads there was lost. Open it as it is, or restore anew.")
    if not instance.failure:
        _require_later(call, backup.facts.engine, source.target, wanted, _arrived(call, instance))
    _go_on(call, instance, msgspec.structs.replace(source, target=wanted))


def _paused(instance: DBInstance) -> RestoreFrom:
    if instance.restore_from is None or not instance.waits_for_look or instance.change == "deleting":
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"The DB instance {instance.db_instance_identifier} is no restore that is paused for a look.",
        )
    return instance.restore_from


def _arrived(call: Call, instance: DBInstance) -> RestoreProgress:
    """Where it waits."""
    seen = last_seen_leader(call.use(Fleet), instance)  # type: ignore[type-abstract]
    progress = None if seen is None or seen.started_for != instance.restart_token else seen.restore
    if progress is None or progress.phase != "paused":
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"The restore {instance.db_instance_identifier} has not arrived where it is to be looked at yet.",
        )
    return progress


def _automated_backup(call: Call, source: RestoreFrom) -> DBInstanceAutomatedBackup:
    repository = call.tx.get(BackupRepository, source.repository_scope, source.repository_id)
    found = (
        None
        if repository is None
        else call.tx.get(DBInstanceAutomatedBackup, source.repository_scope, repository.dbi_resource_id)
    )
    if found is None or found.repository_id != source.repository_id:
        raise invalid_value("The automated backups that it is made of have ended: it can only be opened as it is.")
    return found


def _require_later(
    call: Call, engine: str, target: RestoreTarget, wanted: RestoreTarget, here: RestoreProgress
) -> None:
    """Of a transaction nobody knows where it is; the engine finds out."""
    rules = call.use(Engines).rules(engine)
    behind = False
    if wanted.position:
        behind = rules.log_position(wanted.position) <= rules.log_position(here.position)
    elif wanted.at is not None:
        passed = target.at if target.at is not None else here.moment
        behind = passed is not None and wanted.at <= passed
    if behind:
        raise invalid_value(
            f"This place is not after {here.position}, where the restore is: a recovery goes forward only. For an"
            " earlier one delete it and restore anew."
        )


def _go_on(call: Call, instance: DBInstance, source: RestoreFrom) -> None:
    """Recorded with another process start, which the workflow sees; one that has failed is begun again."""
    subject, now = f"db:{instance.dbi_resource_id}", call.clock.wall()
    instance = msgspec.structs.replace(restarted(instance), restore_from=source, change="creating")
    call.tx.put(instance)
    if any(job.program == RESTORE.name for job in call.tx.jobs(subject)):
        bring_forward(call.tx, subject, now)
        return
    words = {"origin": source.described, "target": instance.db_instance_identifier}
    frame = {"event_id": "RDS-EVENT-0019", "words": words}
    call.tx.add_job(new_job(RESTORE, subject, instance.scope, now, frame))
