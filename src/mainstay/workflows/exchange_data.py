"""Other data takes the place of an instance's data: restored from its backups, or what was set aside at such a restore.

Name, identity, endpoint, parameter group and everything else of the instance stay. What was in place is kept on the
same volume until somebody discards it, or goes back to it. If what is wanted cannot be put in place, what was there
comes back by the same program. Moments that are no part of the instance's history any more are a gap of its log, which
the next automated backup, due at once, heals.

A Multi-AZ instance is parted before: its standby goes, and only when it is gone is the data exchanged, so that nobody
can take over with the history that is left. Afterwards, whatever came of it, it gets a standby again, a copy of what is
in place then. What was set aside is on the node that stayed, and only there.
"""

from __future__ import annotations

import msgspec

from mainstay.decide.restore_window import Gap
from mainstay.model.db_instance import DataChange, DBInstance
from mainstay.model.errors import ApiError, Permanent
from mainstay.model.node import NodeStatus
from mainstay.services.rds.events import record_event
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.store import Transaction
from mainstay.workflows.automated_backups import backup_record, note_gap
from mainstay.workflows.converge import converging, fail, running
from mainstay.workflows.db_instances import MODIFY, restarted
from mainstay.workflows.engine import Finish, Next, Outcome, Work, new_job
from mainstay.workflows.modification import with_standby
from mainstay.workflows.node_specs import instance_of, require_instance
from mainstay.workflows.reclaim_repository import request_reclaim_in

EVENT = "MAINSTAY-EVENT-0006"


def _exchanged(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    """What is in place is kept no more, what was there is."""
    now, frame = work.tools.clock.wall(), work.job.frame
    backup = backup_record(tx, instance)
    if backup is not None:
        note_gap(tx, backup, Gap(since=frame["moment"], until=now), now)
        request_reclaim_in(tx, now, instance.scope, backup.repository_id)
    reason = frame["told"]
    if "failure" in frame:
        reason = f"The data could not be exchanged, so what was there is in place again: {frame['failure']}"
    record_event(tx, work.tools.clock, instance, EVENT, reason=reason)
    request_refresh_in(tx, now, instance)  # what may go, goes
    return _paired_again(work, tx, instance) if frame.get("parted") else instance


def _failed(work: Work, error: Permanent) -> Outcome:
    """What was set aside comes back; if that does not work either, the instance has failed."""
    if "failure" in work.job.frame:
        return fail(work, error)

    def undo(tx: Transaction) -> None:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is not None and instance.exchange is not None:
            before = instance.exchange
            undone = DataChange(wanted=before.aside, aside=before.wanted, node_id=before.node_id)
            tx.put(msgspec.structs.replace(restarted(instance), exchange=undone))

    return Next("put_node", undo, {"failure": error.message})


def _paired_again(work: Work, tx: Transaction, instance: DBInstance) -> DBInstance:
    """With a standby, which is made now; without one, and told, if its subnet group has no place for one any more."""
    clock = work.tools.clock
    try:
        instance = with_standby(tx, work.tools.randomness, msgspec.structs.replace(instance, multi_az=True))
    except ApiError as error:
        record_event(tx, clock, instance, "RDS-EVENT-0044", reason=f"It is not Multi-AZ any more: {error.message}")
        return msgspec.structs.replace(instance, multi_az=False)
    tx.add_job(new_job(MODIFY, work.job.subject, instance.scope, clock.wall(), {"finished_events": []}))
    return msgspec.structs.replace(instance, change="modifying")


def _parted(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    """Nobody is there to take over: the data may be exchanged."""
    now, frame = work.tools.clock.wall(), {**work.job.frame, "parted": True}
    present = require_instance(tx, work.job.scope, work.job.subject)
    backup = backup_record(tx, instance)
    if backup is not None:
        note_gap(tx, backup, Gap(since=frame["moment"], until=now), now)
    tx.add_job(new_job(EXCHANGE, work.job.subject, instance.scope, now, frame))
    return msgspec.structs.replace(
        restarted(instance),
        change="modifying",
        exchange=present.exchange,
        kept_data=present.kept_data,
        data_name=present.data_name,
    )


def _not_parted(work: Work, error: Permanent) -> Outcome:
    """Nothing was exchanged, and it is to be a pair as before."""

    def record(tx: Transaction) -> None:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        change = None if instance is None else instance.exchange
        if instance is None or change is None:
            return
        kept = tuple(one for one in instance.kept_data if one.name != change.aside)
        instance = msgspec.structs.replace(instance, exchange=None, kept_data=kept)
        reason = f"The data could not be exchanged: {error.message}"
        record_event(tx, work.tools.clock, instance, EVENT, reason=reason)
        tx.put(_paired_again(work, tx, instance))

    return Finish(record)


PART_PAIR = converging("part_pair", settled=running, ending=_parted, deadline_s=900.0, failed=_not_parted)
EXCHANGE = converging("exchange_data", settled=running, ending=_exchanged, deadline_s=6 * 3600.0, failed=_failed)
