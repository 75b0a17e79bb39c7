"""Other data takes the place of an instance's data: restored from its backups, or what was set aside at such a restore.

Name, identity, endpoint, parameter group and everything else of the instance stay. What was in place is kept on the
same volume until somebody discards it, or goes back to it. If what is wanted cannot be put in place, what was there
comes back by the same program. Moments that are no part of the instance's history any more are a gap of its log, which
the next automated backup, due at once, heals.
"""

from __future__ import annotations

import msgspec

from mainstay.decide.restore_window import Gap
from mainstay.model.db_instance import DataChange, DBInstance
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeStatus
from mainstay.services.rds.events import record_event
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.store import Transaction
from mainstay.workflows.automated_backups import backup_record, note_gap
from mainstay.workflows.converge import converging, fail, running
from mainstay.workflows.db_instances import restarted
from mainstay.workflows.engine import Next, Outcome, Work
from mainstay.workflows.node_specs import instance_of
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
    return instance


def _failed(work: Work, error: Permanent) -> Outcome:
    """What was set aside comes back; if that does not work either, the instance has failed."""
    if "failure" in work.job.frame:
        return fail(work, error)

    def undo(tx: Transaction) -> None:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is not None and instance.exchange is not None:
            undone = DataChange(wanted=instance.exchange.aside, aside=instance.exchange.wanted)
            tx.put(msgspec.structs.replace(restarted(instance), exchange=undone))

    return Next("put_node", undo, {"failure": error.message})


EXCHANGE = converging("exchange_data", settled=running, ending=_exchanged, deadline_s=6 * 3600.0, failed=_failed)
