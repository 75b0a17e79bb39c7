"""Verifications and restore tests, with control or agent killed before and after every single effect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import BackupRepository, DBInstanceAutomatedBackup
from mainstay.model.repository_job import JobPhase, JobStatus
from mainstay.services.rds.restore_test_request import request_restore_test_in
from mainstay.workflows.restore_test import TAG, scratch_name
from mainstay.workflows.verify_backups import begin_verification
from simulation.effects import undisturbed
from simulation.kill_points import kill_points
from simulation.loop import Killed
from simulation.state import check_repositories
from simulation.test_crash_points import (
    DAY_S,
    Prepared,
    Scenario,
    create_with_backups,
    delete_snapshot,
    nightly,
    snapshot,
)
from simulation.world import World


async def ask(world: World, request: Callable[[Any, float, BackupRepository, DBInstanceAutomatedBackup], Any]) -> None:
    """As an operator does it, who asks again when the service died meanwhile."""
    while True:
        assert world.control is not None
        try:
            with world.control.store.transaction() as tx:
                (backup,) = tx.scan(DBInstanceAutomatedBackup)
                repository = tx.get(BackupRepository, backup.scope, backup.repository_id)
                assert repository is not None
                request(tx, world.clock.wall(), repository, backup)
            world.control.worker.wake()
        except Killed:
            await world.revive()
            await world.settle()
        else:
            return


async def verify(world: World) -> None:
    await ask(world, lambda tx, now, repository, _backup: begin_verification(tx, now, repository, None))


async def verify_while_a_snapshot_goes(world: World) -> None:
    """Its data goes after the verification: the simulated agent notices if anything is removed meanwhile."""
    await verify(world)
    await delete_snapshot(world)
    await world.settle()


async def restore_test(world: World) -> None:
    await ask(world, lambda tx, now, _repository, backup: request_restore_test_in(tx, now, backup))


async def a_week_later(world: World) -> None:
    """The scheduled test, after the daily backup."""
    world.clock.advance(6 * DAY_S)
    await nightly(world)


def repository_of(world: World) -> BackupRepository:
    assert world.control is not None
    (found,) = [one for one in world.control.store.view().scan(BackupRepository) if not one.doomed]
    return found


SCENARIOS: dict[str, tuple[tuple[Scenario, ...], Scenario, str]] = {
    "verify": ((create_with_backups, snapshot), verify, "verified"),
    "verify_while_a_snapshot_goes": ((create_with_backups, snapshot), verify_while_a_snapshot_goes, "verified"),
    "restore_test": ((create_with_backups,), restore_test, "restore_tested"),
}  # fmt: skip


def check(world: World, proof: str, where: str) -> None:
    """It has come to a good end, and nothing is left but what was there before."""
    found = getattr(repository_of(world), proof)
    assert found is not None and found.good, (where, found)
    assert [one["DBInstanceIdentifier"] for one in world.describe()] == ["db1"], where
    assert [job.program for job in world.jobs()] == ["automated_backups"], where
    assert len([path for path in (world.directory / "nodes").iterdir() if path.is_dir()]) == 1, where
    check_repositories(world)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_effect_changes_nothing_in_the_end(name: str, tmp_path: Path) -> None:
    prelude, scenario, proof = SCENARIOS[name]
    prepared = Prepared(tmp_path, prelude)
    counts: list[int] = []
    where = "undisturbed"

    async def checked(world: World) -> None:
        await scenario(world)
        await world.settle()
        counts.append(len(world.effects.trace))
        check(world, proof, where)

    prepared.run(checked, lambda _world: undisturbed)
    assert counts[0] > 5
    for point in kill_points(counts[0]):
        where = str(point)
        prepared.run(checked, point.decision)


def one_run(directory: Path, *steps: Scenario, failures: tuple[JobStatus, ...] = ()) -> World:
    """Automated backups, then the steps, the first jobs of which come to these failures."""
    directory.mkdir(exist_ok=True)
    prepared = Prepared(directory, (create_with_backups,))

    async def story(world: World) -> None:
        world.host.storage.failures = list(failures)
        for step in steps:
            await step(world)
            await world.settle()

    return prepared.run(story, lambda _world: undisturbed)[0]


def test_a_restore_test_is_made_after_the_daily_backup_of_a_week_later(tmp_path: Path) -> None:
    seen: list[tuple[bool, list[str]]] = []

    async def look(world: World) -> None:
        names = [one["DBInstanceIdentifier"] for one in world.describe()]
        proof = repository_of(world).restore_tested
        seen.append((proof is not None and proof.good, names))

    one_run(tmp_path, nightly, look, a_week_later, look)
    assert seen == [(False, ["db1"]), (True, ["db1"])]


DAMAGED = JobStatus(job_id="", subject="", phase=JobPhase.DONE, damages=("everything is gone",))
FATAL = JobStatus(job_id="", subject="", phase=JobPhase.FAILED, failure="the storage is away", fatal=True)


def test_damage_and_failure_are_recorded_and_told(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def look(world: World) -> None:
        assert world.control is not None
        repository = repository_of(world)
        with world.control.store.read() as view:
            events = [one.message for one in view.events(repository.scope, 0, 1e12) if "MAINSTAY" in one.event_id]
        seen.append((repository, events, [one["DBInstanceIdentifier"] for one in world.describe()]))

    one_run(tmp_path / "a", verify, look, failures=(DAMAGED,))
    one_run(tmp_path / "b", restore_test, look, failures=(DAMAGED,))
    one_run(tmp_path / "c", restore_test, look, failures=(FATAL,))
    (verified, told, _), (tested, told_too, left), (untested, _told, left_too) = seen
    assert verified.verified.damages == ("everything is gone",)
    assert told == ["The verification of the backups found damage: everything is gone"]
    assert tested.restore_tested.damages == ("The restored instance is not sound: everything is gone",)
    assert told_too == [
        "The restore test of the backups failed: The restored instance is not sound: everything is gone"
    ]
    assert untested.restore_tested.failure == "The restored instance could not be checked: the storage is away"
    assert left == left_too == ["db1"]


def test_what_a_test_did_not_make_is_never_deleted(tmp_path: Path) -> None:
    """An instance that somebody has given the name of the copy: the test is not possible, and it stays."""
    kept: list[Any] = []

    async def somebody(world: World) -> None:
        assert world.control is not None
        with world.control.store.transaction() as tx:
            (instance,) = tx.scan(DBInstance)
            name = scratch_name(repository_of(world).repository_id)
            theirs = msgspec.structs.replace(
                instance, db_instance_identifier=name, dbi_resource_id="db-THEIRS", node_id="", tags={TAG: "mine"}
            )
            tx.insert(theirs)

    async def look(world: World) -> None:
        kept.append((repository_of(world).restore_tested, [one["DBInstanceIdentifier"] for one in world.describe()]))
        assert world.control is not None
        with world.control.store.transaction() as tx:
            for one in tx.scan(DBInstance):
                if one.dbi_resource_id == "db-THEIRS":
                    tx.delete(one)

    one_run(tmp_path, somebody, restore_test, look)
    ((proof, names),) = kept
    assert "already exists" in proof.failure and len(names) == 2
