"""Restores to a place in the log instead of a moment: an extension, which the API of RDS does not have."""

from __future__ import annotations

from mainstay.decide.restore_window import base_backup, restore_window
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import RestoreFrom
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.errors import ApiError, invalid_value
from mainstay.model.node import NodeStatus, RestoreTarget
from mainstay.services.operations import Call, Request
from mainstay.services.rds.promises import complete_backups, promise_of
from mainstay.services.rds.restore_db_instance import Restoring, new_identifier, restore


def restore_further(
    call: Call,
    request: Request,
    backup: DBInstanceAutomatedBackup,
    seen: NodeStatus | None,
    *,
    position: str = "",
    transaction: str = "",
) -> str:
    """Begins it, with the request's members of RestoreDBInstanceToPointInTime; the new instance's identifier.

    Of a position the newest backup before it is the base, of a transaction, whose place nobody knows, the oldest one.
    One that is not in the log is found out when its end is reached: the instance is `incompatible-restore` then.
    """
    rules = call.use(Engines).rules(backup.facts.engine)
    if bool(position) == bool(transaction):
        raise invalid_value("Exactly one of a position in the log and a transaction must be given.")
    if transaction:
        rules.check_transaction(transaction)
    identifier = new_identifier(call, request["TargetDBInstanceIdentifier"])
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
    name = backup.facts.db_instance_identifier
    source = RestoreFrom(
        repository_scope=backup.scope,
        repository_id=backup.repository_id,
        backup_id=base.backup_id,
        target=RestoreTarget(position=position, transaction=transaction, timeline=promise.timeline),
        described=name,
    )
    words = {"origin": name, "target": identifier}
    restoring = Restoring(facts=backup.facts, source=source, tags={}, event_id="RDS-EVENT-0019", words=words)
    restore(call, request, identifier, restoring)
    return identifier
