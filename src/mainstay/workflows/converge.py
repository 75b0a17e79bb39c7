"""The shape that most instance workflows share: hand the node's present spec to its agent, wait until it is in effect.

What differs between creating, modifying, rebooting, starting and stopping is what the API recorded beforehand, when the
node counts as settled, and what is recorded at the end; a lifecycle's own file gives these.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mainstay.decide.db_instance_status import db_instance_status
from mainstay.decide.progress import Pace
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DEFAULT_PREFIX
from mainstay.model.errors import Permanent
from mainstay.model.node import Node, NodePhase, NodeSpec, NodeStatus, NodeTarget, leading
from mainstay.services.rds.events import record_event
from mainstay.store import Transaction
from mainstay.workflows import addresses
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, StepFunction, Work
from mainstay.workflows.fleet import last_seen_leader
from mainstay.workflows.node_specs import instance_of, nodes_of, refresh_nodes, require_instance, with_private_key
from mainstay.workflows.progress import tell_or_sleep

OBSERVE_AGAIN_S = 5.0
_FAILURES = {
    "create_db_instance": "RDS-EVENT-0278",
    "create_read_replica": "RDS-EVENT-0202",
    "restore_db_instance": "RDS-EVENT-0278",
}

Settled = Callable[[NodeSpec, NodeStatus], bool]
Ending = Callable[[Work, Transaction, DBInstance, NodeStatus], DBInstance]


class Hold(msgspec.Struct, frozen=True):
    """A step in which a program waits for a person. `holds(instance)`: whether it does so now.

    `begin` leads from `await_settled` to the step, and the step's `wait` to `put_node` when it is to go on. `overdue`
    tells that the program is late.
    """

    step: str
    holds: Callable[[DBInstance], bool]
    begin: Callable[[Work, DBInstance, NodeStatus], Next]
    wait: StepFunction
    overdue: Callable[[Work, Transaction], None]


def running(spec: NodeSpec, status: NodeStatus) -> bool:
    """The engine runs, was started for the present token, and everything in the spec is in effect."""
    return (
        status.phase is NodePhase.RUNNING
        and status.settled_generation >= spec.generation
        and status.started_for == spec.restart_token
    )


def switched(spec: NodeSpec, status: NodeStatus) -> bool:
    """As `running`, and the change of roles asked for was made or given up.

    If it was given up the standby may be gone for long: it is not waited for.
    """
    pair = status.pair
    if pair is None or pair.switched_for < spec.failover_token:
        return False
    missed = spec.failover_token > 0 and pair.given_up == spec.failover_token
    return running(spec, status) or (missed and pair.primary != status.node_id)


def stopped(spec: NodeSpec, status: NodeStatus) -> bool:
    """The engine has ended and will not be started."""
    return status.phase is NodePhase.STOPPED and status.settled_generation >= spec.generation


async def put_present_specs(work: Work) -> tuple[NodeSpec, ...] | None:
    """Hands over what the records say of the instance's nodes now; None if it is gone or going."""
    tools = work.tools
    with tools.store.transaction() as tx:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is None or instance.change == "deleting":
            return None
        specs = refresh_nodes(tx, tools, instance)
    for spec in specs:
        await tools.fleet.put_node(with_private_key(spec, tools))
    return specs


async def _put_node(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.transaction() as tx:
        instance = require_instance(tx, work.job.scope, work.job.subject)
        specs = refresh_nodes(tx, tools, instance)
    for spec in specs:
        await tools.fleet.put_node(with_private_key(spec, tools))
    return Next("await_settled")


def converging(
    name: str,
    *,
    settled: Settled,
    ending: Ending,
    deadline_s: float,
    needs_standby: bool = False,
    before: tuple[str, StepFunction] | None = None,
    hold: Hold | None = None,
    failed: Callable[[Work, Permanent], Outcome] | None = None,
) -> Program:
    """A program of two steps: `put_node`, then `await_settled`.

    `needs_standby`: it has not ended before the standby of a Multi-AZ instance has every commit. `before` is a step
    (name, function) that comes first and leads to `put_node`; `hold` one in which it may wait when everything is in
    effect. `failed` says what becomes of it otherwise than by `fail`; it may begin anew.
    """

    async def await_settled(work: Work) -> Outcome:
        tools = work.tools
        with tools.store.read() as view:
            instance = require_instance(view, work.job.scope, work.job.subject)
            specs = {node.spec.node_id: node.spec for node in nodes_of(view, instance)}
        seen = {node_id: tools.fleet.observe(node_id) for node_id in instance.node_ids}
        status = leading(list(seen.values()))
        if status is None or any(node_id not in specs for node_id in seen):
            return Next("put_node")
        if status.generation >= specs[status.node_id].generation and status.fatal:
            raise Permanent(status.failure)
        for node_id, spec in specs.items():
            one = seen[node_id]
            if one is None and spec.target is not NodeTarget.ABSENT:
                return Next("put_node")
            if not _done(spec, one, settled):
                return _tell_restore(work, status)
        if instance.multi_az and needs_standby and not (status.pair is not None and status.pair.in_sync):
            return Sleep(OBSERVE_AGAIN_S)
        if hold is not None and hold.holds(instance):
            return hold.begin(work, instance, status)
        return Finish(lambda tx: _record_end(work, tx, ending, status))

    first = {} if before is None else {before[0]: Step(before[1], successors=("put_node",))}
    held = {} if hold is None else {hold.step: Step(hold.wait, successors=("put_node",))}
    return Program(
        name=name,
        first=next(iter(first), "put_node"),
        steps={
            **first,
            "put_node": Step(
                _put_node, successors=("await_settled",) if failed is None else ("await_settled", "put_node")
            ),
            "await_settled": Step(await_settled, successors=("await_settled", "put_node", *held)),
            **held,
        },
        deadline_s=deadline_s,
        failed=failed or fail,
        overdue=tell_overdue if hold is None else hold.overdue,
    )


def _tell_restore(work: Work, status: NodeStatus) -> Outcome:
    """Waits on; if the node's data comes from a backup, how far that is is told now and then."""
    seen = status.restore
    if seen is None or not seen.seconds:
        return Sleep(OBSERVE_AGAIN_S)
    begun_at = work.tools.clock.wall() - seen.seconds
    pace = Pace(begun_at=begun_at, bytes_done=seen.bytes_done, bytes_total=seen.bytes_total)
    doing = "Restore" if seen.bytes_total else "Replay of the log"

    def tell(tx: Transaction, words: str) -> None:
        instance = require_instance(tx, work.job.scope, work.job.subject)
        record_event(tx, work.tools.clock, instance, "MAINSTAY-EVENT-0010", doing=doing, progress=words)

    return tell_or_sleep(work, pace, tell, OBSERVE_AGAIN_S)


def _record_end(work: Work, tx: Transaction, ending: Ending, status: NodeStatus) -> None:
    present = require_instance(tx, work.job.scope, work.job.subject)
    # The first time it is in effect is when the instance came to be, even if a repair had to help.
    created_at = present.instance_create_time or work.tools.clock.wall()
    done = msgspec.structs.replace(present, change="", failure="", instance_create_time=created_at).exchanged
    # The ending last: it may name what comes next (`backing-up`).
    tx.put(ending(work, tx, without_standby(tx, done), status))


def _done(spec: NodeSpec, seen: NodeStatus | None, settled: Settled) -> bool:
    if spec.target is NodeTarget.ABSENT:
        return seen is None or seen.phase is NodePhase.ABSENT
    return seen is not None and settled(spec, seen)


def without_standby(tx: Transaction, instance: DBInstance) -> DBInstance:
    """The instance, and nothing left of a standby that it does not want any more and that is gone."""
    if instance.multi_az or not instance.standby_node_id:
        return instance
    if instance.keeping_node_id == instance.standby_node_id:  # it leads by now, which is not recorded yet
        instance = instance.with_nodes_swapped
    node = tx.get(Node, instance.scope, instance.standby_node_id)
    if node is not None:
        tx.delete(node)
    addresses.release(tx, instance.scope.account_id, instance.standby_node_id)
    return msgspec.structs.replace(
        instance, standby_node_id="", standby_subnet_id="", secondary_availability_zone="", standby_in_sync=False
    )


def fail(work: Work, error: Permanent) -> Finish:
    """The instance keeps the reason; its status says what kind of failure it is."""

    def record(tx: Transaction) -> None:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is None:
            return
        seen = last_seen_leader(work.tools.fleet, instance)
        unusable = seen is not None and seen.unusable and _may_be_parameters(instance)
        failed = msgspec.structs.replace(instance, change="", failure=error.message, unusable=unusable)
        tx.put(failed)
        if unusable and db_instance_status(failed, seen) == "incompatible-parameters":
            reason, group = error.message.rstrip("."), failed.db_parameter_group_name
            record_event(tx, work.tools.clock, failed, "RDS-EVENT-0035", reason=reason, group=group)
            return
        event_id = _FAILURES.get(work.job.program, "RDS-EVENT-0031")
        record_event(tx, work.tools.clock, failed, event_id, reason=error.message)

    return Finish(record)


def _may_be_parameters(instance: DBInstance) -> bool:
    """Whether it has parameters that somebody chose. Of a restore the backup may be at fault as well."""
    restored = instance.restore_from is not None and instance.instance_create_time is None
    return not restored and not instance.parameter_group_in_force.startswith(DEFAULT_PREFIX)


def tell_overdue(work: Work, tx: Transaction) -> None:
    """A person should look: an operation takes longer than it ever should."""
    instance = instance_of(tx, work.job.scope, work.job.subject)
    if instance is not None:
        status = last_seen_leader(work.tools.fleet, instance)
        reason = status.failure if status is not None and status.failure else "no reason is known"
        record_event(tx, work.tools.clock, instance, "RDS-EVENT-0044", reason=f"{work.job.program} is late: {reason}")
