"""A stopped instance is started again after seven days (RDS user guide, "Stopping a DB instance temporarily")."""

from __future__ import annotations

import msgspec

from mainstay.model.node import NodeTarget
from mainstay.store import Transaction
from mainstay.workflows.converge import fail, tell_overdue
from mainstay.workflows.db_instances import MAX_STOPPED_S, START, restarted
from mainstay.workflows.engine import Finish, Outcome, Program, Sleep, Step, Work, new_job
from mainstay.workflows.node_specs import instance_of


async def _await_time(work: Work) -> Outcome:
    tools = work.tools
    now = tools.clock.wall()
    with tools.store.read() as view:
        instance = instance_of(view, work.job.scope, work.job.subject)
    if instance is None or (instance.target is not NodeTarget.STOPPED and instance.change != "stopping"):
        return Finish()
    due_at = instance.automatic_restart_at or work.job.created_at + MAX_STOPPED_S
    if now < due_at or instance.change:
        return Sleep(max(60.0, due_at - now))

    def start(tx: Transaction) -> None:
        tx.put(msgspec.structs.replace(restarted(instance), change="starting"))
        tx.add_job(new_job(START, work.job.subject, work.job.scope, now))

    return Finish(start)


RESTART_STOPPED = Program(
    name="restart_stopped_db_instance",
    first="await_time",
    steps={"await_time": Step(_await_time)},
    deadline_s=2 * MAX_STOPPED_S,
    failed=fail,
    overdue=tell_overdue,
)
