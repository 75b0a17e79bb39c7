"""The part of a restore in which it waits to be looked at, before it is opened or moved on.

The instance is `creating` meanwhile and takes queries only. What is wanted next is recorded with the instance, and
with it another restart token: this step goes on when the token is not the one that it began to wait for.
"""

from __future__ import annotations

from mainstay.decide.restore_window import moment_text
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeStatus, leading
from mainstay.services.rds.events import record_event
from mainstay.store import Transaction
from mainstay.workflows.converge import Hold, tell_overdue
from mainstay.workflows.engine import Next, Outcome, Sleep, Work
from mainstay.workflows.node_specs import require_instance

STEP = "await_opening"
LOOK_AGAIN_S = 60.0


def _begin(work: Work, instance: DBInstance, status: NodeStatus) -> Next:
    """It has arrived, and says so."""
    return Next(STEP, lambda tx: _tell(work, tx, status), {"arrived_for": instance.restart_token})


def _tell(work: Work, tx: Transaction, status: NodeStatus) -> None:
    instance = require_instance(tx, work.job.scope, work.job.subject)
    record_event(
        tx, work.tools.clock, instance, "MAINSTAY-EVENT-0006", reason=f"{where(status)} {_what_next(instance)}"
    )


def where(status: NodeStatus | None) -> str:
    """Where it waits, in a sentence."""
    progress = None if status is None else status.restore
    if progress is None or not progress.position:
        return "The restore is paused for a look."
    last = "" if progress.moment is None else f", the last commit of {moment_text(progress.moment)}"
    return f"The restore is paused for a look at {progress.position}{last}. It takes queries and no writes."


def _what_next(instance: DBInstance) -> str:
    name = instance.db_instance_identifier
    return f"`mainstay backups open {name}` opens it, `mainstay backups move {name}` goes on to a later moment."


async def _wait(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.read() as view:
        instance = require_instance(view, work.job.scope, work.job.subject)
    if instance.restart_token != work.job.frame["arrived_for"]:
        return Next("put_node")
    status = leading([tools.fleet.observe(node_id) for node_id in instance.node_ids])
    if status is not None and status.fatal:
        raise Permanent(status.failure)
    return Sleep(LOOK_AGAIN_S)


def _tell_late(work: Work, tx: Transaction) -> None:
    """A person is reminded of what waits for one."""
    if work.job.step != STEP:
        tell_overdue(work, tx)
        return
    instance = require_instance(tx, work.job.scope, work.job.subject)
    reason = f"This restore has been waiting for hours to be looked at. {_what_next(instance)}"
    record_event(tx, work.tools.clock, instance, "MAINSTAY-EVENT-0006", reason=reason)


PAUSE = Hold(STEP, lambda instance: instance.waits_for_look, _begin, _wait, _tell_late)
