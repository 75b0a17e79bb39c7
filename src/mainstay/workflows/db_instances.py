"""The lifecycles of a DB instance that change its node and wait for it: what is recorded when each has ended."""

from __future__ import annotations

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.node import NodeStatus, NodeTarget
from mainstay.services.rds.events import record_event
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.store import Transaction
from mainstay.workflows.automated_backups import start_first_backup
from mainstay.workflows.converge import converging, running, stopped, switched
from mainstay.workflows.engine import Work
from mainstay.workflows.last_snapshot import leaving
from mainstay.workflows.paused_restore import PAUSE
from mainstay.workflows.reclaim_repository import request_reclaim_in

SNAPSHOT_RESTORED = "RDS-EVENT-0043"
"""Told of the snapshot, if it is still there."""

RECENT_FAILOVER_S = 600.0
"""So long after a failover a standby that is not in sync is that failover's doing."""

MAX_STOPPED_S = 7 * 24 * 3600.0


def _created(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0005")
    return start_first_backup(work, tx, instance)


def _restored(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    """Its own backups begin; what it was made of is not held any more."""
    clock, source = work.tools.clock, instance.restore_from
    if source is not None:
        frame = work.job.frame
        snapshot = None
        if frame["event_id"] == SNAPSHOT_RESTORED and source.repository_scope == instance.scope:
            snapshot = tx.get(DBSnapshot, instance.scope, source.described)
        record_event(tx, clock, snapshot or instance, frame["event_id"], **frame["words"])
        request_reclaim_in(tx, clock.wall(), source.repository_scope, source.repository_id)
    request_refresh_in(tx, clock.wall(), instance)  # its agent need not keep the key of what it was made of
    return start_first_backup(work, tx, instance)


def _modified(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    for event_id in work.job.frame.get("finished_events", ()):
        record_event(tx, work.tools.clock, instance, event_id)
    return start_first_backup(work, tx, instance)


def _rebooted(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0006")
    return start_first_backup(work, tx, instance)


def failed_over(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    """The changed roles are recorded where every failover is (control/failovers.py); here only that there was none."""
    pair = status.pair
    if (
        pair is not None
        and instance.failover_token
        and not any(
            failover.epoch > instance.failover_epoch or failover.at >= work.job.created_at
            for failover in pair.failovers
        )
    ):
        recent = any(failover.at > work.job.created_at - RECENT_FAILOVER_S for failover in pair.failovers)
        since = " since a failover recently occurred on the database instance" if recent else ""
        reason = pair.obstacle or pair.reason
        record_event(tx, work.tools.clock, instance, "RDS-EVENT-0034", since=since, reason=reason)
    return instance


def _started(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    automatic = instance.automatic_restart_at is not None and work.tools.clock.wall() >= instance.automatic_restart_at
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0154" if automatic else "RDS-EVENT-0088")
    return msgspec.structs.replace(instance, automatic_restart_at=None)


def _stopped(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0087")
    return msgspec.structs.replace(instance, automatic_restart_at=work.tools.clock.wall() + MAX_STOPPED_S)


CREATE = converging("create_db_instance", settled=running, ending=_created, deadline_s=600.0, needs_standby=True)
MODIFY = converging("modify_db_instance", settled=running, ending=_modified, deadline_s=900.0, needs_standby=True)
FAILOVER = converging("fail_over_db_instance", settled=switched, ending=failed_over, deadline_s=600.0)
REBOOT = converging("reboot_db_instance", settled=running, ending=_rebooted, deadline_s=600.0)
START = converging("start_db_instance", settled=running, ending=_started, deadline_s=600.0)
STOP = converging(
    "stop_db_instance", settled=stopped, ending=_stopped, deadline_s=600.0,
    before=("await_snapshot", leaving(NodeTarget.STOPPED, "put_node")),
)  # fmt: skip
RESTORE = converging(
    "restore_db_instance", settled=running, ending=_restored, deadline_s=6 * 3600.0, needs_standby=True, hold=PAUSE
)


def restarted(instance: DBInstance, *, rolling: bool = False) -> DBInstance:
    """The instance with one more wanted process start: everything that waited for a reboot comes into force.

    `rolling`: of a Multi-AZ instance the standby starts anew first and takes over then.
    """
    return msgspec.structs.replace(
        instance,
        rolling=rolling,
        restart_token=instance.restart_token + 1,
        parameter_group_in_force=instance.db_parameter_group_name,
        held_parameters={},
        target=NodeTarget.RUNNING,
        failure="",
    )
