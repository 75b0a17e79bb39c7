"""Deleting a DB instance: its node first, then everything that was held for it, and the record last."""

from __future__ import annotations

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.node import Node, NodePhase, NodeTarget
from mainstay.services.ec2.interfaces import delete_service_interface
from mainstay.services.rds.events import record_event
from mainstay.store import Transaction
from mainstay.workflows import addresses
from mainstay.workflows.converge import OBSERVE_AGAIN_S, fail, tell_overdue
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work
from mainstay.workflows.node_specs import instance_of, with_private_key


async def _remove_node(work: Work) -> Outcome:
    """Tells the agent that the node shall be absent. A node that was never handed over needs no agent."""
    tools = work.tools
    with tools.store.transaction() as tx:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        node = None if instance is None else tx.get(Node, work.job.scope, instance.node_id)
        if node is not None and node.spec.target is not NodeTarget.ABSENT:
            spec = msgspec.structs.replace(node.spec, target=NodeTarget.ABSENT, generation=node.spec.generation + 1)
            node = msgspec.structs.replace(node, spec=spec)
            tx.put(node)
    if node is not None:
        await tools.fleet.put_node(with_private_key(node.spec, tools))
    return Next("await_absence")


async def _await_absence(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.read() as view:
        instance = instance_of(view, work.job.scope, work.job.subject)
    if instance is None:
        return Finish()
    status = tools.fleet.observe(instance.node_id)
    if status is not None and status.phase is not NodePhase.ABSENT:
        return Sleep(OBSERVE_AGAIN_S)
    return Finish(lambda tx: forget(work, tx, instance))


def forget(work: Work, tx: Transaction, instance: DBInstance) -> None:
    """Removes the record and all that was held for it."""
    node = tx.get(Node, instance.scope, instance.node_id)
    if node is not None:
        tx.delete(node)
    addresses.release(tx, instance.scope.account_id, instance.dbi_resource_id)
    addresses.release(tx, instance.scope.account_id, instance.node_id)
    if instance.network_interface_id:
        delete_service_interface(tx, instance.scope, instance.network_interface_id)
    for job in tx.jobs(work.job.subject):
        if job.id != work.job.id:
            tx.finish_job(job)
    present = instance_of(tx, instance.scope, work.job.subject)
    if present is not None:
        tx.delete(present)
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0003")


DELETE = Program(
    name="delete_db_instance",
    first="remove_node",
    steps={
        "remove_node": Step(_remove_node, successors=("await_absence",)),
        "await_absence": Step(_await_absence),
    },
    deadline_s=600.0,
    failed=fail,
    overdue=tell_overdue,
)
