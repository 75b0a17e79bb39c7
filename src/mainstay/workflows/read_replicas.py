"""The lifecycles of read replicas: created, promoted, and what becomes of them when their source is deleted."""

from __future__ import annotations

import msgspec

from mainstay.decide.replication_status import REPLICATING, TERMINATED
from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.node import NodeRole, NodeSpec, NodeStatus
from mainstay.services.rds.events import record_event
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.store import Transaction
from mainstay.workflows.automated_backups import back_up_soon
from mainstay.workflows.converge import converging, running
from mainstay.workflows.engine import Work, new_job
from mainstay.workflows.node_specs import replicas_of, source_of


def following(spec: NodeSpec, status: NodeStatus) -> bool:
    """As `running`, and the replica receives from its source. Its own standby, if it has one, need only run."""
    if not running(spec, status):
        return False
    if status.role is NodeRole.STANDBY:
        return True
    return status.replication is not None and status.replication.streaming


def independent(spec: NodeSpec, status: NodeStatus) -> bool:
    """As `running`, and it follows nobody any more."""
    return running(spec, status) and status.role is not NodeRole.REPLICA


def _created(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0005")
    return msgspec.structs.replace(instance, replication_status=REPLICATING)


def _promoted(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    reason = "The read replica was promoted to a standalone DB instance."
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0044", reason=reason)
    return back_up_soon(work, tx, instance)


CREATE_REPLICA = converging(
    "create_read_replica", settled=following, ending=_created, deadline_s=3600.0, needs_standby=True
)
PROMOTE = converging(
    "promote_read_replica", settled=independent, ending=_promoted, deadline_s=600.0, needs_standby=True
)


def put_promotion(tx: Transaction, now: float, replica: DBInstance) -> DBInstance:
    """Records that the replica follows nobody any more and starts the workflow; returns the stored record."""
    source = source_of(tx, replica)
    replica = msgspec.structs.replace(
        replica, source_dbi_resource_id="", source_identifier="", replication_status="", change="modifying"
    )
    tx.put(replica)
    tx.add_job(new_job(PROMOTE, f"db:{replica.dbi_resource_id}", replica.scope, now))
    if source is not None:
        request_refresh_in(tx, now, source)  # it may have no follower to keep WAL for any more
    return replica


def leave_deleted_source(tx: Transaction, clock: Clock, source: DBInstance) -> None:
    """What RDS does with the replicas of an instance that is gone.

    Those of its region are promoted; the replication of those elsewhere is terminated, as is that of a replica without
    data to lead with (its creation failed). Source: RDS user guide, "Deleting a DB instance".
    """
    for replica in replicas_of(tx, source):
        if replica.change == "deleting":
            continue
        if replica.scope == source.scope and replica.instance_create_time is not None:
            put_promotion(tx, clock.wall(), replica)
            continue
        record_event(tx, clock, replica, "RDS-EVENT-0057")
        tx.put(msgspec.structs.replace(replica, replication_status=TERMINATED, source_identifier=source.arn))
        request_refresh_in(tx, clock.wall(), replica)
