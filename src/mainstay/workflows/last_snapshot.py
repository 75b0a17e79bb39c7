"""The snapshot that is taken before an instance is stopped or deleted: without it, nothing of the kind happens."""

from __future__ import annotations

import msgspec

from mainstay.model.db_snapshot import AVAILABLE, MANUAL, DBSnapshot
from mainstay.model.node import NodeTarget
from mainstay.services.rds.events import record_event
from mainstay.store import Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Sleep, StepFunction, Work
from mainstay.workflows.make_db_snapshot import being_made
from mainstay.workflows.node_specs import instance_of

MADE_AGAIN_S = 30.0


def leaving(target: NodeTarget, successor: str) -> StepFunction:
    """A step that waits for every manual snapshot being made of the instance, and then wants the node at `target`.

    `last_snapshot` in the frame names the one without which the instance stays as it is.
    """

    async def await_snapshot(work: Work) -> Outcome:
        with work.tools.store.read() as view:
            instance = instance_of(view, work.job.scope, work.job.subject)
            if instance is None:
                return Finish()
            if any(row.snapshot_type == MANUAL for row in being_made(view, instance)):
                return Sleep(MADE_AGAIN_S)
            name = work.job.frame.get("last_snapshot", "")
            row = view.get(DBSnapshot, work.job.scope, name) if name else None
        if name and (row is None or row.status != AVAILABLE):
            return Finish(lambda tx: _stay(work, tx, name, "" if row is None else row.failure))
        return Next(successor, lambda tx: _leave(work, tx, target))

    return await_snapshot


def _leave(work: Work, tx: Transaction, target: NodeTarget) -> None:
    instance = instance_of(tx, work.job.scope, work.job.subject)
    if instance is None:
        return
    tx.put(msgspec.structs.replace(instance, target=target))
    for row in being_made(tx, instance):  # automated ones: they cannot be completed any more
        tx.delete(row)


def _stay(work: Work, tx: Transaction, name: str, reason: str) -> None:
    """The request is given up, the instance is as it was, and a person is told why."""
    instance = instance_of(tx, work.job.scope, work.job.subject)
    if instance is None:
        return
    change = {"deleting": "deleted", "stopping": "stopped"}.get(instance.change, "changed")
    text = f"The DB instance was not {change}: the DB snapshot {name} could not be made. {reason}".strip()
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0044", reason=text)
    tx.put(msgspec.structs.replace(instance, change=""))
