"""The shape that most instance workflows share: hand the node's present spec to its agent, wait until it is in effect.

What differs between creating, modifying, rebooting, starting and stopping is what the API recorded beforehand, when the
node counts as settled, and what is recorded at the end; a lifecycle's own file gives these.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Permanent
from mainstay.model.node import Node, NodePhase, NodeSpec, NodeStatus
from mainstay.services.rds.events import record_event
from mainstay.store import Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work
from mainstay.workflows.node_specs import instance_of, refresh_node, require_instance, with_private_key

OBSERVE_AGAIN_S = 5.0

Settled = Callable[[NodeSpec, NodeStatus], bool]
Ending = Callable[[Work, Transaction, DBInstance, NodeStatus], DBInstance]


def running(spec: NodeSpec, status: NodeStatus) -> bool:
    """The engine runs, was started for the present token, and everything in the spec is in effect."""
    return (
        status.phase is NodePhase.RUNNING
        and status.settled_generation >= spec.generation
        and status.started_for == spec.restart_token
    )


def stopped(spec: NodeSpec, status: NodeStatus) -> bool:
    """The engine has ended and will not be started."""
    return status.phase is NodePhase.STOPPED and status.settled_generation >= spec.generation


def converging(name: str, *, settled: Settled, ending: Ending, deadline_s: float) -> Program:
    """A program of two steps: `put_node`, then `await_settled`."""

    async def put_node(work: Work) -> Outcome:
        tools = work.tools
        with tools.store.transaction() as tx:
            instance = require_instance(tx, work.job.scope, work.job.subject)
            spec = refresh_node(tx, tools, instance)
        await tools.fleet.put_node(with_private_key(spec, tools))
        return Next("await_settled")

    async def await_settled(work: Work) -> Outcome:
        tools = work.tools
        with tools.store.read() as view:
            instance = require_instance(view, work.job.scope, work.job.subject)
            node = view.get(Node, work.job.scope, instance.node_id)
        status = tools.fleet.observe(instance.node_id)
        if node is None or status is None:
            return Next("put_node")
        if status.generation >= node.spec.generation and status.fatal:
            raise Permanent(status.failure)
        if not settled(node.spec, status):
            return Sleep(OBSERVE_AGAIN_S)

        def record(tx: Transaction) -> None:
            present = require_instance(tx, work.job.scope, work.job.subject)
            done = ending(work, tx, present, status)
            # The first time it is in effect is when the instance came to be, even if a repair had to help.
            created_at = done.instance_create_time or tools.clock.wall()
            tx.put(msgspec.structs.replace(done, change="", failure="", instance_create_time=created_at))

        return Finish(record)

    return Program(
        name=name,
        first="put_node",
        steps={
            "put_node": Step(put_node, successors=("await_settled",)),
            "await_settled": Step(await_settled, successors=("put_node",)),
        },
        deadline_s=deadline_s,
        failed=fail,
        overdue=tell_overdue,
    )


def fail(work: Work, error: Permanent) -> Finish:
    """The instance keeps the reason; its status says what kind of failure it is."""

    def record(tx: Transaction) -> None:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is None:
            return
        tx.put(msgspec.structs.replace(instance, change="", failure=error.message))
        event_id = "RDS-EVENT-0278" if work.job.program == "create_db_instance" else "RDS-EVENT-0031"
        record_event(tx, work.tools.clock, instance, event_id, reason=error.message)

    return Finish(record)


def tell_overdue(work: Work, tx: Transaction) -> None:
    """A person should look: an operation takes longer than it ever should."""
    instance = instance_of(tx, work.job.scope, work.job.subject)
    if instance is not None:
        status = work.tools.fleet.last_seen(instance.node_id)
        reason = status.failure if status is not None and status.failure else "no reason is known"
        record_event(tx, work.tools.clock, instance, "RDS-EVENT-0044", reason=f"{work.job.program} is late: {reason}")
