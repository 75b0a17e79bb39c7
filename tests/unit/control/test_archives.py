"""How far the log is kept is recorded once a minute, a gap at once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.records import db_instance
from mainstay.control.archives import ArchiveRecorder
from mainstay.host.clock import SimulatedClock
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.node import ArchiveStatus, NodePhase, NodeRole, NodeStatus
from mainstay.model.records import Scope
from mainstay.store import Job, SqliteStore
from mainstay.workflows.repositories import facts_of

SCOPE = Scope("123456789012", "us-east-1")


class World:
    """A store with one instance, what its agent saw last, and the recorder."""

    def __init__(self) -> None:
        self.store, self.clock = SqliteStore(":memory:"), SimulatedClock()
        self.archive: ArchiveStatus | None = None
        self.woken = 0
        self.recorder = ArchiveRecorder(self.store, self, self.clock, self._wake)  # type: ignore[arg-type]
        instance = db_instance(
            "db1", dbi_resource_id="db-1", node_id="node-1", backup_retention_period_days=1, repository_id="repo-1"
        )
        backup = DBInstanceAutomatedBackup(
            scope=SCOPE, facts=facts_of(instance), automated_backup_id="ab-1", repository_id="repo-1",
            backup_retention_period_days=1, last_backup_at=50.0,
        )  # fmt: skip
        with self.store.transaction() as tx:
            tx.insert(instance)
            tx.insert(backup)
            tx.add_job(Job(program="automated_backups", subject=backup.subject, scope=SCOPE, step="s", due_at=1e12))

    def _wake(self) -> None:
        self.woken += 1

    def last_seen(self, node_id: str) -> NodeStatus:
        return NodeStatus(
            node_id=node_id, dbi_resource_id="db-1", db_instance_identifier="db1", role=NodeRole.PRIMARY,
            availability_zone="us-east-1a", phase=NodePhase.RUNNING, generation=1, archive=self.archive,
        )  # fmt: skip

    def see(self, **fields: Any) -> DBInstanceAutomatedBackup:
        """The record after the agent has told this."""
        self.archive = ArchiveStatus(**fields)
        self.recorder.look("db-1")
        found = self.store.view().get(DBInstanceAutomatedBackup, SCOPE, "db-1")
        assert found is not None
        return found

    def due_at(self) -> float:
        (job,) = self.store.view().jobs()
        return job.due_at


@pytest.fixture
def world() -> World:
    return World()


def test_at_most_once_a_minute(world: World) -> None:
    first = world.see(latest_restorable_at=100.0, timeline="1")
    assert (first.latest_restorable_at, first.timeline) == (100.0, "1")
    world.clock.advance(59.0)
    assert world.see(latest_restorable_at=159.0, timeline="2") == first
    world.clock.advance(1.0)
    later = world.see(latest_restorable_at=160.0, timeline="2")
    assert (later.latest_restorable_at, later.timeline) == (160.0, "2")


def test_what_is_known_is_never_forgotten(world: World) -> None:
    known = world.see(latest_restorable_at=100.0, timeline="1")
    world.clock.advance(600.0)
    assert world.see() == known
    assert world.see(latest_restorable_at=90.0) == known


def test_a_gap_is_recorded_at_once_and_wakes_the_timer(world: World) -> None:
    world.see(latest_restorable_at=100.0, timeline="1")
    assert world.due_at() == 1e12
    record = world.see(latest_restorable_at=100.0, timeline="1", gap_at=101.0)
    assert record.gap_at == 101.0 and record.gap_open
    assert world.due_at() <= world.clock.wall() and world.woken == 2
    assert not msgspec.structs.replace(record, last_backup_at=102.0).gap_open


def test_an_instance_without_backups_is_let_alone(world: World) -> None:
    with world.store.transaction() as tx:
        found = tx.get(DBInstanceAutomatedBackup, SCOPE, "db-1")
        assert found is not None
        tx.delete(found)
    world.archive = ArchiveStatus(latest_restorable_at=100.0)
    world.recorder.look("db-1")
    world.recorder.look("db-unknown")
    assert world.woken == 0
