"""Deleting a DB instance: a last snapshot if one is wanted, its node, everything held for it, and the record last."""

from __future__ import annotations

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.node import NodePhase, NodeTarget
from mainstay.services.ec2.interfaces import delete_service_interface
from mainstay.services.rds.events import record_event
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.services.secretsmanager.values import delete_secret_now
from mainstay.store import Transaction
from mainstay.workflows import addresses
from mainstay.workflows.automated_backups import (
    backup_record,
    end_automated_backups,
    note_archive,
    retain_automated_backups,
)
from mainstay.workflows.converge import OBSERVE_AGAIN_S, fail, tell_overdue
from mainstay.workflows.db_proxy import deregister_deleted
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work
from mainstay.workflows.last_snapshot import leaving
from mainstay.workflows.node_specs import instance_of, nodes_of, source_of, with_private_key
from mainstay.workflows.read_replicas import leave_deleted_source
from mainstay.workflows.reclaim_repository import request_reclaim_in
from mainstay.workflows.repositories import facts_of
from mainstay.workflows.rotate_master_user_password import master_secret_of


async def _remove_node(work: Work) -> Outcome:
    """Tells the agent that the nodes shall be absent. A node that was never handed over needs no agent."""
    tools = work.tools
    absent = []
    with tools.store.transaction() as tx:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        # The standby first: a primary that alone is to go would hand over to it.
        for node in () if instance is None else reversed(nodes_of(tx, instance)):
            spec = node.spec
            if spec.target is not NodeTarget.ABSENT:
                spec = msgspec.structs.replace(spec, target=NodeTarget.ABSENT, generation=spec.generation + 1)
                tx.put(msgspec.structs.replace(node, spec=spec))
            absent.append(spec)
    for spec in absent:
        await tools.fleet.put_node(with_private_key(spec, tools))
    return Next("await_absence")


async def _await_absence(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.read() as view:
        instance = instance_of(view, work.job.scope, work.job.subject)
    if instance is None:
        return Finish()
    _note_last_words(work, instance)
    for node_id in instance.node_ids:
        status = tools.fleet.observe(node_id)
        if status is not None and status.phase is not NodePhase.ABSENT:
            return Sleep(OBSERVE_AGAIN_S)
    return Finish(lambda tx: forget(work, tx, instance))


def _note_last_words(work: Work, instance: DBInstance) -> None:
    """How far the log was shipped in the end: nobody can be asked when the nodes are gone."""
    tools = work.tools
    seen = [tools.fleet.last_seen(node_id) for node_id in instance.node_ids]
    archives = [one.archive for one in seen if one is not None and one.archive is not None]
    last = max(archives, key=lambda archive: archive.latest_restorable_at, default=None)
    with tools.store.read() as view:
        backup = backup_record(view, instance)
    if last is None or backup is None or last.latest_restorable_at <= (backup.latest_restorable_at or 0.0):
        return
    with tools.store.transaction() as tx:
        backup = backup_record(tx, instance)
        if backup is not None:
            note_archive(tx, backup, last, tools.clock.wall())


def _leave_backups(work: Work, tx: Transaction, instance: DBInstance) -> None:
    """Automated backups go with the instance unless they are to be retained; snapshots stay."""
    now = work.tools.clock.wall()
    backup = backup_record(tx, instance)
    if backup is not None and work.job.frame.get("retain_automated_backups"):
        retain_automated_backups(tx, now, msgspec.structs.replace(backup, facts=facts_of(instance)))
    elif backup is not None:
        end_automated_backups(tx, now, backup)
    request_reclaim_in(tx, now, instance.scope, instance.repository_id)
    if instance.restore_from is not None:
        source = instance.restore_from
        request_reclaim_in(tx, now, source.repository_scope, source.repository_id)


def forget(work: Work, tx: Transaction, instance: DBInstance) -> None:
    """Removes the record and all that was held for it."""
    for node in nodes_of(tx, instance):
        tx.delete(node)
    for holder in (instance.dbi_resource_id, *instance.node_ids):
        addresses.release(tx, instance.scope.account_id, holder)
    if instance.network_interface_id:
        delete_service_interface(tx, instance.scope, instance.network_interface_id)
    for job in tx.jobs(work.job.subject):
        if job.id != work.job.id:
            tx.finish_job(job)
    present = instance_of(tx, instance.scope, work.job.subject)
    if present is not None:
        tx.delete(present)
    _leave_backups(work, tx, instance)
    secret = master_secret_of(tx, instance)
    if secret is not None:
        delete_secret_now(tx, secret)
    deregister_deleted(tx, work.tools.clock, instance)
    leave_deleted_source(tx, work.tools.clock, instance)
    source = source_of(tx, instance)
    if source is not None:
        request_refresh_in(tx, work.tools.clock.wall(), source)  # it may have no follower to keep WAL for any more
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0003")


DELETE = Program(
    name="delete_db_instance",
    first="await_snapshot",
    steps={
        "await_snapshot": Step(leaving(NodeTarget.ABSENT, "remove_node"), successors=("remove_node",)),
        "remove_node": Step(_remove_node, successors=("await_absence",)),
        "await_absence": Step(_await_absence),
    },
    deadline_s=600.0,
    failed=fail,
    overdue=tell_overdue,
)
