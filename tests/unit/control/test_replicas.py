"""That replication stopped and resumed is recorded once per transition, whoever dies in between."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.records import db_instance
from mainstay.control.replicas import ReplicationRecorder
from mainstay.host.clock import SimulatedClock
from mainstay.model.db_instance import DBInstance
from mainstay.model.node import NodePhase, NodeRole, NodeStatus, ReplicationStatus
from mainstay.model.records import Scope
from mainstay.store import SqliteStore

SCOPE = Scope("123456789012", "us-east-1")
STREAMING = ReplicationStatus(streaming=True, lag_s=0.0, lag_bytes=0)
CUT_OFF = ReplicationStatus(streaming=False, message="the source is not sending")


class Fleet:
    """What the agents saw last."""

    def __init__(self) -> None:
        self.replication: ReplicationStatus | None = None

    def last_seen(self, node_id: str) -> NodeStatus:
        return NodeStatus(
            node_id=node_id, dbi_resource_id="db-REP", db_instance_identifier="rep", role=NodeRole.REPLICA,
            availability_zone="us-east-1a", phase=NodePhase.RUNNING, generation=1, replication=self.replication,
        )  # fmt: skip


class World:
    """A replica that follows, its source, and the control process that watches."""

    def __init__(self) -> None:
        self.store, self.fleet, self.clock = SqliteStore(":memory:"), Fleet(), SimulatedClock()
        with self.store.transaction() as tx:
            tx.insert(db_instance("src"))
            tx.insert(db_instance("rep", source_dbi_resource_id="db-SRC", replication_status="replicating"))
        self.restart()

    def restart(self) -> None:
        self.recorder = ReplicationRecorder(self.store, self.fleet, self.clock)  # type: ignore[arg-type]

    def see(self, replication: ReplicationStatus | None) -> None:
        self.fleet.replication = replication
        for _ in range(3):
            self.recorder.look("db-REP")
            self.restart()

    def change(self, identifier: str, **fields: Any) -> None:
        with self.store.transaction() as tx:
            present = tx.get(DBInstance, SCOPE, identifier)
            assert present is not None
            tx.put(msgspec.structs.replace(present, **fields))

    def told(self) -> list[str]:
        with self.store.read() as view:
            return [event.event_id.removeprefix("RDS-EVENT-") for event in view.events(SCOPE, 0, 1e12)]


@pytest.fixture
def world() -> World:
    return World()


def test_every_transition_once(world: World) -> None:
    for replication in (STREAMING, None, CUT_OFF, None, CUT_OFF, STREAMING, STREAMING, CUT_OFF):
        world.see(replication)
    assert world.told() == ["0045", "0046", "0045"]


def test_other_lags_and_reasons_are_no_transition(world: World) -> None:
    world.see(msgspec.structs.replace(STREAMING, lag_s=900.0))
    world.see(CUT_OFF)
    world.see(msgspec.structs.replace(CUT_OFF, message="another reason"))
    assert world.told() == ["0045"]


@pytest.mark.parametrize("change", ["creating", "deleting"])
def test_a_replica_that_comes_or_goes_is_left_alone(world: World, change: str) -> None:
    world.change("rep", change=change)
    world.see(CUT_OFF)
    assert world.told() == []


def test_that_a_source_is_being_deleted_is_told_when_it_is_gone(world: World) -> None:
    world.change("src", change="deleting")
    world.see(CUT_OFF)
    assert world.told() == []


def test_what_was_terminated_or_promoted_does_not_resume(world: World) -> None:
    world.change("rep", replication_status="terminated")
    world.see(STREAMING)
    world.change("rep", replication_status="", source_dbi_resource_id="")
    world.see(CUT_OFF)
    assert world.told() == []


def test_a_replica_whose_creation_failed_and_that_was_helped_to_run_is_one_from_then_on(world: World) -> None:
    world.change("rep", replication_status="", instance_create_time=None)
    world.see(STREAMING)
    assert world.told() == []
    world.change("rep", instance_create_time=1.0)
    world.see(CUT_OFF)
    assert world.told() == []
    for replication in (STREAMING, CUT_OFF):
        world.see(replication)
    assert world.told() == ["0046", "0045"]
