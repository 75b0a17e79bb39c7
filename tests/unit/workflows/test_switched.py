"""When RebootDBInstance with ForceFailover has ended: both nodes run, or nobody took over and the primary runs."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.node import (
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
from mainstay.workflows.converge import switched

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
