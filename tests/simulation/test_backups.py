"""Backups that fail, come late, or must heal a gap; and what stays when an instance goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.errors import ApiError
from mainstay.model.node import ArchiveStatus
from mainstay.model.repository_job import JobPhase, JobStatus
from mainstay.workflows.automated_backups import note_archive
from simulation.state import check_repositories, end_state
from simulation.test_crash_points import DAY_S, create, create_with_backups, delete_with_final_snapshot, snapshot
from simulation.test_failing_effects import live
from simulation.world import SCOPE, World

FAILURE = JobStatus(job_id="", subject="", phase=JobPhase.FAILED, failure="the storage is full")
FATAL = JobStatus(job_id="", subject="", phase=JobPhase.FAILED, failure="the disk is gone", fatal=True)


def snapshots(world: World) -> dict[str, tuple[str, str]]:
    """Identifier -> status and type, timestamps left out."""
    shown = world.attempt("DescribeDBSnapshots", "rds", {}, 1)["DBSnapshots"]
    return {one["DBSnapshotIdentifier"]: (one["Status"], one["SnapshotType"]) for one in shown}


def status(world: World) -> str:
    (shown,) = world.describe()
    return str(shown["DBInstanceStatus"])


def told(world: World) -> list[str]:
    assert world.control is not None
    with world.control.store.read() as view:
        return [event.message for event in view.events(SCOPE, 0, 1e12) if event.event_id == "RDS-EVENT-0044"]


def record(world: World) -> DBInstanceAutomatedBackup:
    assert world.control is not None
    with world.control.store.read() as view:
        (found,) = view.scan(DBInstanceAutomatedBackup)
    return found


def test_an_automated_backup_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.host.storage.failures = [FAILURE, FAILURE]
        await create_with_backups(world)
        await world.settle()
        assert status(world) == "available", "a failed backup keeps nobody backing-up"
        assert snapshots(world) == {}
        assert told(world) == [
            "The automated backup of this DB instance failed and is tried again: the storage is full"
        ]
        for _ in range(30):
            world.clock.advance(60.0)
            await world.settle()
        assert [one for one in snapshots(world).values()] == [("available", "automated")]
        assert len(told(world)) == 1 and record(world).status == "active"
        check_repositories(world)

    live(tmp_path, story)


@pytest.mark.parametrize(("failures", "ends"), [(2, "available"), (9, "failed")])
def test_a_manual_snapshot_is_tried_for_a_while(failures: int, ends: str, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        world.host.storage.failures = [FAILURE] * failures
        await snapshot(world)
        await world.settle()
        assert snapshots(world) == {"one": (ends, "manual")} and status(world) == "available"
        world.host.storage.failures = []
        await world.settle()
        check_repositories(world)
        await world.call("DeleteDBSnapshot", DBSnapshotIdentifier="one")
        await world.settle()
        assert world.host.storage.backups == {} and world.jobs() == []
        check_repositories(world)

    live(tmp_path, story)


def test_without_its_final_snapshot_an_instance_stays(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create_with_backups(world)
        await world.settle()
        world.host.storage.failures = [FATAL]
        await delete_with_final_snapshot(world)
        await world.settle()
        assert status(world) == "available" and snapshots(world)["last"] == ("failed", "manual")
        assert told(world) == [
            "The DB instance was not deleted: the DB snapshot last could not be made. the disk is gone"
        ]
        assert record(world).status == "active", "and it keeps its automated backups"
        with pytest.raises(ApiError, match="already exists"):
            await delete_with_final_snapshot(world)
        await world.call("DeleteDBSnapshot", DBSnapshotIdentifier="last")
        await delete_with_final_snapshot(world)
        await world.settle()
        assert world.describe() == [] and snapshots(world) == {"last": ("available", "manual")}
        check_repositories(world)

    live(tmp_path, story)


def test_a_gap_in_the_log_brings_a_backup_at_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create_with_backups(world)
        await world.settle()
        world.clock.advance(3600.0)
        assert world.control is not None
        with world.control.store.transaction() as tx:
            now = world.clock.wall()
            note_archive(tx, record(world), ArchiveStatus(latest_restorable_at=now, timeline="2", gap_at=now - 60), now)
        world.control.worker.wake()
        await world.settle()
        assert len(snapshots(world)) == 2
        world.clock.advance(3600.0)
        await world.settle()
        assert len(snapshots(world)) == 2 and not record(world).gap_open

    live(tmp_path, story)


def test_a_backup_that_cannot_be_taken_is_told_once_and_taken_when_it_can(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create_with_backups(world)
        await world.settle()
        builds, world.builds.present = world.builds.present, []
        ((node_id, engine),) = world.host.engines.items()
        world.host.end(node_id, engine, -9)
        world.clock.advance(DAY_S)
        for _ in range(48):
            world.clock.advance(1800.0)
            await world.tick()
        assert told(world) == ["The automated backup of this DB instance is late: it is not available."]
        world.builds.present = builds
        for _ in range(4):
            world.clock.advance(60.0)
            await world.settle()
        assert status(world) == "available" and len(snapshots(world)) == 2

    live(tmp_path, story)


def test_data_keys_are_in_no_record(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create_with_backups(world)
        await world.settle()
        await snapshot(world)
        await world.settle()
        await world.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="db2", DBSnapshotIdentifier="one")
        await world.tick(0.1)
        keys = list(world.host.storage.keys.values())
        assert keys
        text: Any = str(end_state(world)["records"])
        await world.settle()
        assert world.control is not None
        text += str(world.control.store._db.execute("SELECT document FROM records").fetchall())
        assert not [key for key in keys if key in text]

    live(tmp_path, story)
