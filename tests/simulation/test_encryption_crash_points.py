"""Encrypted instances, with control or agent killed around every effect: a lost key locks, a found one opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mainstay.agent import node_engine
from mainstay.host.volumes import DRIVERS
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.kms import KmsKey
from simulation.effects import undisturbed
from simulation.kill_points import kill_points
from simulation.loop import Killed
from simulation.state import check_repositories
from simulation.test_backups import FAILURE, FATAL
from simulation.test_crash_points import (
    DAY_S,
    Prepared,
    Scenario,
    create,
    delete,
    delete_snapshot,
    snapshot,
)
from simulation.test_failing_effects import live
from simulation.volumes import KERNEL, NAME, SimulatedVolumes
from simulation.world import SCOPE, World

LOST = "inaccessible-encryption-credentials"
RECOVERABLE = "inaccessible-encryption-credentials-recoverable"


@pytest.fixture(autouse=True)
def simulated_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its volumes, and its SIGKILL to what uses one."""
    worlds: list[World] = []
    make = World.__init__

    def noted(world: World, *arguments: Any, **more: Any) -> None:
        make(world, *arguments, **more)
        worlds.append(world)

    async def fence(volume: Path) -> int:
        for world in worlds:
            for node_id, engine in list(world.host.engines.items()):
                if engine.volume == volume:
                    with world.effects.one(world.living("agent"), "host.fence"):
                        world.host.end(node_id, engine, -9)
        return 0

    monkeypatch.setitem(DRIVERS, NAME, SimulatedVolumes())
    monkeypatch.setattr(World, "__init__", noted)
    monkeypatch.setattr(node_engine, "fence", fence)


async def new_key(world: World) -> None:
    await world.call("CreateKey", service="kms")
    await world.call("CreateAlias", service="kms", AliasName="alias/mine", TargetKeyId=key_id(world))


def key_id(world: World) -> str:
    assert world.control is not None
    with world.control.store.read() as view:
        return view.scan(KmsKey)[0].key_id


async def encrypted(world: World, **members: Any) -> None:
    await new_key(world)
    await create(world, StorageEncrypted=True, KmsKeyId="alias/mine", **members)


async def encrypted_and_backed_up(world: World) -> None:
    await encrypted(world, BackupRetentionPeriod=1)


async def disable(world: World) -> None:
    await world.call("DisableKey", service="kms", KeyId=key_id(world))


async def enable(world: World) -> None:
    await world.call("EnableKey", service="kms", KeyId=key_id(world))


async def enable_and_start(world: World) -> None:
    await enable(world)
    await world.call("StartDBInstance", DBInstanceIdentifier="db1")


async def disable_while_creating(world: World) -> None:
    await encrypted(world)
    await world.tick()
    await disable(world)
    await world.tick()
    while True:  # as `World.call`, which waits for everything to settle: without the key nothing does
        try:
            world.attempt("EnableKey", "kms", {"KeyId": key_id(world)}, 1)
            return
        except Killed:
            await world.revive()
            await world.tick()


async def a_week(world: World) -> None:
    world.clock.advance(7 * DAY_S + 60.0)
    await world.tick()
    await world.tick()


async def copy_encrypted(world: World) -> None:
    await world.call("CopyDBSnapshot", SourceDBSnapshotIdentifier="one", TargetDBSnapshotIdentifier="two",
                     KmsKeyId="alias/mine")  # fmt: skip


async def restore(world: World) -> None:
    await world.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="db2", DBSnapshotIdentifier="two",
                     BackupRetentionPeriod=0)  # fmt: skip


SCENARIOS: dict[str, tuple[tuple[Scenario, ...], Scenario, list[str]]] = {
    "create": ((), encrypted, ["available"]),
    "create_with_backups": ((), encrypted_and_backed_up, ["available"]),
    "snapshot": ((encrypted,), snapshot, ["available"]),
    "delete_snapshot": ((encrypted, snapshot), delete_snapshot, ["available"]),
    "lose": ((encrypted,), disable, [LOST]),
    "lose_beside_backups": ((encrypted_and_backed_up,), disable, [RECOVERABLE]),
    "enable_alone": ((encrypted_and_backed_up, disable), enable, [RECOVERABLE]),
    "find": ((encrypted_and_backed_up, disable), enable_and_start, ["available"]),
    "lose_for_good": ((encrypted_and_backed_up, disable), a_week, [LOST]),
    "delete_lost": ((encrypted_and_backed_up, disable), delete, []),
    "copy": ((create, snapshot, new_key), copy_encrypted, ["available"]),
    "restore": ((create, snapshot, new_key, copy_encrypted), restore, ["available", "available"]),
}


def check_keys(world: World) -> None:
    """The kernel has the key of every volume that is in use and of no other; no spec on the agent's disk has one."""
    nodes = [path for path in (world.directory / "nodes").iterdir() if (path / "volume.img").exists()]
    for node in nodes:
        assert (node / KERNEL).exists() == (node.name in world.host.engines), node
        key = (node / "volume.img").read_text()
        assert all(key not in path.read_text() for path in node.rglob("*.json"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_effect_changes_nothing_in_the_end(name: str, tmp_path: Path) -> None:
    prelude, scenario, status = SCENARIOS[name]
    prepared = Prepared(tmp_path, prelude)
    calm, expected = prepared.run(scenario, lambda _world: undisturbed)
    assert expected["status"] == status and expected["violations"] == []
    check_keys(calm)
    count = len(calm.effects.trace)
    assert count > 0
    for point in kill_points(count):
        world, state = prepared.run(scenario, point.decision)
        assert state == expected, point.in_(world)
        check_keys(world)


def test_one_that_is_being_created_waits_for_its_key_and_one_that_was_ready_before_loses_it(tmp_path: Path) -> None:
    """A kill delays the creation or the disabling, so both ends are right, but nothing between them."""
    prepared = Prepared(tmp_path, ())
    calm, expected = prepared.run(disable_while_creating, lambda _world: undisturbed)
    assert expected["status"] == ["available"] and "fleet.lock_node" in calm.effects.trace
    check_keys(calm)
    for point in kill_points(len(calm.effects.trace), ("before",)):
        world, state = prepared.run(disable_while_creating, point.decision)
        assert state["status"] in (["available"], [LOST]), point.in_(world)
        check_keys(world)


def the_snapshot(world: World) -> DBSnapshot:
    assert world.control is not None
    with world.control.store.read() as view:
        (row,) = view.scan(DBSnapshot)
    return row


def told(world: World) -> list[str]:
    assert world.control is not None
    with world.control.store.read() as view:
        found = [one for one in view.events(SCOPE, 0, 1e12) if one.event_id == "MAINSTAY-EVENT-0002"]
    return [one.message for one in found]


def test_a_clone_that_cannot_be_stored_is_told_once_and_tried_until_it_can(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await encrypted(world)
        await world.settle()
        world.host.storage.failures = [FATAL] * 6
        await snapshot(world)
        await world.tick(2.0)
        assert the_snapshot(world).status == "available" and the_snapshot(world).local
        assert world.describe()[0]["DBInstanceStatus"] == "available" and told(world) == []
        await world.settle()
        assert the_snapshot(world).status == "available" and not the_snapshot(world).local
        assert told(world) == [
            "The DB snapshot one is on its host only: it could not be stored: the disk is gone",
            "The DB snapshot one is in the object storage",
        ]
        check_repositories(world)

    live(tmp_path, story)


def test_a_clone_that_is_lost_before_it_is_stored_fails_its_snapshot_and_the_copies_that_share_it(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        await encrypted(world)
        await world.settle()
        world.host.storage.failures = [FAILURE]
        await snapshot(world)
        await world.tick(1.5)
        assert the_snapshot(world).local
        await world.call("CopyDBSnapshot", SourceDBSnapshotIdentifier="one", TargetDBSnapshotIdentifier="two")
        world.host.storage.clones.clear()  # as with its host
        await world.settle()
        assert world.control is not None
        with world.control.store.read() as view:
            assert [(row.status, row.local) for row in view.scan(DBSnapshot)] == [("failed", False)] * 2
        for name in ("one", "two"):
            await world.call("DeleteDBSnapshot", DBSnapshotIdentifier=name)
        await world.settle()
        check_repositories(world)

    live(tmp_path, story)


def test_a_clone_is_stored_also_when_its_instance_is_gone(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await encrypted(world)
        await world.settle()
        world.host.storage.failures = [FAILURE] * 3
        await snapshot(world)
        await world.tick(1.5)
        assert the_snapshot(world).local
        await delete(world)
        await world.settle()
        assert world.describe() == [] and the_snapshot(world).status == "available" and not the_snapshot(world).local
        check_repositories(world)

    live(tmp_path, story)
