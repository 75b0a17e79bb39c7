"""When RebootDBInstance with ForceFailover has ended: both nodes run, or nobody took over and the primary runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec

from harness.records import SCOPE, db_instance
from mainstay.host.clock import SimulatedClock
from mainstay.model.node import (
    Failover,
    MasterUser,
    NodeEndpoint,
    NodeLimits,
    NodePhase,
    NodeSpec,
    NodeStatus,
    NodeTarget,
    PairStatus,
    ServerCertificate,
)
from mainstay.model.records import Scope
from mainstay.store import SqliteStore
from mainstay.workflows.converge import switched
from mainstay.workflows.db_instances import FAILOVER, RECENT_FAILOVER_S, failed_over
from mainstay.workflows.engine import Work, new_job

SPEC = NodeSpec(
    node_id="node-1", scope=Scope("123456789012", "us-east-1"), dbi_resource_id="db-1", db_instance_identifier="db1",
    availability_zone="us-east-1a", generation=7, failover_token=3, target=NodeTarget.RUNNING, engine="postgres",
    engine_version="17.5", listen_address="127.0.0.1", port=5432, parameters={}, require_tls=False,
    master=MasterUser("chief", "verifier"), database="main", certificate=ServerCertificate("c", "k", "a"),
    limits=NodeLimits(memory_bytes=1 << 30, vcpus=2),
    endpoint=NodeEndpoint(endpoint_id="db-1", address="127.1.0.1", port=5432, name="db1", admits=("0.0.0.0/0",)),
)  # fmt: skip


def seen(node_id: str, **changes: Any) -> NodeStatus:
    pair = PairStatus(epoch=1, primary="node-1", in_sync=False, since=0.0, reason="", switched_for=3)
    status = NodeStatus(
        node_id=node_id, dbi_resource_id="db-1", db_instance_identifier="db1", role=SPEC.role,
        availability_zone="us-east-1a", phase=NodePhase.RUNNING, generation=7, settled_generation=7, started_for=0,
        pair=pair,
    )  # fmt: skip
    return msgspec.structs.replace(status, **changes)


def test_both_nodes_are_waited_for_when_the_roles_were_changed() -> None:
    assert switched(SPEC, seen("node-1")) and switched(SPEC, seen("node-2"))
    assert not switched(SPEC, seen("node-2", phase=NodePhase.CREATING))
    assert not switched(SPEC, seen("node-1", pair=None))


def test_only_the_primary_is_waited_for_when_nobody_took_over() -> None:
    pair = seen("node-1").pair
    assert pair is not None
    given_up = msgspec.structs.replace(pair, given_up=3)
    assert switched(SPEC, seen("node-2", phase=NodePhase.CREATING, pair=given_up))
    assert switched(SPEC, seen("node-1", pair=given_up))
    assert not switched(SPEC, seen("node-1", phase=NodePhase.STARTING, pair=given_up))
    an_earlier_one = msgspec.structs.replace(pair, given_up=2)
    assert not switched(SPEC, seen("node-2", phase=NodePhase.CREATING, pair=an_earlier_one))


def abandoned(last_failover_s_ago: float) -> str:
    """What the event of a failover says that was given up, when the last one was so long ago."""
    clock, store = SimulatedClock(), SqliteStore(":memory:")
    before = Failover(epoch=2, at=clock.wall() - last_failover_s_ago, row="primary-ended", because="it ended",
                      old_primary="node-2", new_primary="node-1")  # fmt: skip
    pair = seen("node-1").pair
    assert pair is not None
    pair = msgspec.structs.replace(pair, given_up=3, obstacle="the standby is gone", failovers=(before,), epoch=2)
    instance = db_instance(node_id="node-1", failover_token=3, failover_epoch=2)
    tools = SimpleNamespace(store=store, clock=clock)
    work = Work(new_job(FAILOVER, "db:one", SCOPE, clock.wall()), cast(Any, tools))
    with store.transaction() as tx:
        tx.insert(instance)
        failed_over(work, tx, instance, seen("node-1", pair=pair))
        (event,) = tx.events(SCOPE, 0.0, clock.wall() + 1.0)
    return event.message


def test_a_failover_that_is_given_up_is_said_to_follow_another_only_if_it_does() -> None:
    assert abandoned(RECENT_FAILOVER_S + 1.0) == "Abandoning user requested failover: the standby is gone"
    assert abandoned(RECENT_FAILOVER_S - 1.0) == (
        "Abandoning user requested failover since a failover recently occurred on the database instance:"
        " the standby is gone"
    )
