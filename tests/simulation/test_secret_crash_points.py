"""Managed master passwords, with control or agent killed around every effect: secret and engine agree in the end."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.host.clock import SimulatedClock
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Permanent
from mainstay.services.secretsmanager.interfaces import current_value
from mainstay.workflows.rotate_master_user_password import master_secret_of
from simulation.effects import fail_randomly, undisturbed
from simulation.kill_points import kill_points
from simulation.loop import simulate
from simulation.test_crash_points import (
    DAY_S,
    START_WALL,
    Prepared,
    Scenario,
    delete,
    modify,
    reboot,
    rename,
    stop,
)
from simulation.world import SCOPE, TERRAFORM_TAKES, TICK_S, World


async def create_managed(world: World) -> None:
    await world.call(
        "CreateDBInstance", DBInstanceIdentifier="db1", Engine="postgres", EngineVersion="17.5",
        DBInstanceClass="db.t3.micro", AllocatedStorage=20, MasterUsername="chief", ManageMasterUserPassword=True,
        PreferredMaintenanceWindow="sun:05:00-sun:05:30", PreferredBackupWindow="03:00-03:30",
        BackupRetentionPeriod=0,
    )  # fmt: skip


async def create_own(world: World) -> None:
    await world.call(
        "CreateDBInstance", DBInstanceIdentifier="db1", Engine="postgres", EngineVersion="17.5",
        DBInstanceClass="db.t3.micro", AllocatedStorage=20, MasterUsername="chief", MasterUserPassword="secret-99",
        PreferredMaintenanceWindow="sun:05:00-sun:05:30", PreferredBackupWindow="03:00-03:30",
        BackupRetentionPeriod=0,
    )  # fmt: skip


async def turn_on(world: World) -> None:
    await modify(world, ManageMasterUserPassword=True)


async def turn_on_and_grow(world: World) -> None:
    await modify(world, ManageMasterUserPassword=True, DBInstanceClass="db.t3.small")


async def turn_off(world: World) -> None:
    await modify(world, ManageMasterUserPassword=False, MasterUserPassword="own-again-1")


async def rotate(world: World) -> None:
    await modify(world, RotateMasterUserPassword=True)


async def rotate_by_secret(world: World) -> None:
    (shown,) = world.describe()
    await world.call("RotateSecret", service="secretsmanager", SecretId=shown["MasterUserSecret"]["SecretArn"],
                     ClientRequestToken="t" * 32)  # fmt: skip


async def a_week(world: World) -> None:
    world.clock.advance(7 * DAY_S + 1.0)
    await world.tick()
    await world.tick()


async def rotate_and_reboot(world: World) -> None:
    await rotate_by_secret(world)
    await reboot(world)


async def rotate_and_delete(world: World) -> None:
    await rotate(world)
    await delete(world)


SCENARIOS: dict[str, tuple[tuple[Scenario, ...], Scenario]] = {
    "create": ((), create_managed),
    "turn_on": ((create_own,), turn_on),
    "turn_on_and_grow": ((create_own,), turn_on_and_grow),
    "turn_off": ((create_managed,), turn_off),
    "rotate": ((create_managed,), rotate),
    "rotate_by_secret": ((create_managed,), rotate_by_secret),
    "scheduled": ((create_managed,), a_week),
    "scheduled_while_stopped": ((create_managed, stop), a_week),
    "rotate_and_reboot": ((create_managed,), rotate_and_reboot),
    "rename": ((create_managed,), rename),
    "delete": ((create_managed,), delete),
    "rotate_and_delete": ((create_managed,), rotate_and_delete),
}


TWO_REQUESTS = frozenset({"rotate_and_reboot", "rotate_and_delete"})


def check_agreement(world: World, *, pending_too: bool = False) -> None:
    """The engine's verifier is that of the secret's AWSCURRENT password, and (unless told) nothing is under way."""
    control = world.control
    assert control is not None
    rules = PostgresqlRules(lambda _build: {})
    with control.store.read() as view:
        for instance in view.scan(DBInstance, SCOPE):
            secret = master_secret_of(view, instance)
            if secret is None:
                continue
            stages = {stage for one in secret.versions for stage in one.stages}
            assert stages <= {"AWSCURRENT", "AWSPREVIOUS"} or (pending_too and "AWSPENDING" in stages)
            password = json.loads(current_value(view, control.vault, SCOPE, secret.arn))["password"]
            stored = instance.master_password_verifier
            salt = base64.b64decode(stored.split("$")[1].split(":")[1])
            assert rules.password_verifier(instance.master_username, password, salt) == stored
            (accounts,) = (world.directory / "nodes").glob("*/volume/data/accounts.json")
            assert stored in accounts.read_text()


def check_never_ahead(world: World) -> None:
    """Whenever AWSCURRENT names the password that the instance wants, the engine has it already."""
    control = world.control
    assert control is not None
    rules = PostgresqlRules(lambda _build: {})
    with control.store.read() as view:
        for instance in view.scan(DBInstance, SCOPE):
            secret = master_secret_of(view, instance)
            if secret is None or instance.instance_create_time is None or instance.change == "deleting":
                continue
            if not any("AWSCURRENT" in one.stages for one in secret.versions):
                continue
            password = json.loads(current_value(view, control.vault, SCOPE, secret.arn))["password"]
            stored = instance.master_password_verifier
            salt = base64.b64decode(stored.split("$")[1].split(":")[1])
            if rules.password_verifier(instance.master_username, password, salt) == stored:
                accounts = [path.read_text() for path in world.directory.glob("nodes/*/volume/data/accounts.json")]
                assert any(stored in text for text in accounts), "the secret is ahead of the engine"


def comparable(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """All that must be equal. Where two requests follow each other, a kill may put a spec of its own between them."""
    if name not in TWO_REQUESTS:
        return state
    return {part: state[part] for part in ("status", "jobs", "violations", "accounts")}


def with_check(scenario: Scenario) -> Scenario:
    """The scenario, watched at every tick, and a look at the agreement before the world goes down."""

    async def both(world: World) -> None:
        tick = world.tick

        async def watched(seconds: float = TICK_S) -> None:
            await tick(seconds)
            check_never_ahead(world)

        world.tick = watched  # type: ignore[method-assign]
        await scenario(world)
        await world.settle()
        check_agreement(world)

    return both


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_effect_changes_nothing_in_the_end(name: str, tmp_path: Path) -> None:
    prelude, scenario = SCENARIOS[name]
    scenario = with_check(scenario)
    prepared = Prepared(tmp_path, prelude)
    calm, expected = prepared.run(scenario, lambda _world: undisturbed)
    assert set(calm.words) <= TERRAFORM_TAKES, calm.words
    count = len(calm.effects.trace)
    assert count > 2
    for point in kill_points(count):
        world, state = prepared.run(scenario, point.decision)
        where = point.in_(world)
        assert comparable(name, state) == comparable(name, expected), where
        assert set(world.words) <= TERRAFORM_TAKES, (where, world.words)


@pytest.mark.parametrize("name", ["create", "turn_on", "turn_off", "rotate", "scheduled", "rotate_and_reboot"])
def test_transient_failures_change_nothing_in_the_end(name: str, tmp_path: Path) -> None:
    prelude, scenario = SCENARIOS[name]
    scenario = with_check(scenario)
    prepared = Prepared(tmp_path, prelude)
    _calm, expected = prepared.run(scenario, lambda _world: undisturbed)
    for seed in range(6):
        world, state = prepared.run(scenario, lambda _world, s=seed: fail_randomly(s, 0.2))  # type: ignore[misc]
        assert comparable(name, state) == comparable(name, expected), (seed, world.effects.trace)


def live(directory: Path, story: Scenario) -> World:
    """A world from its first start to the end of the story."""
    clock = SimulatedClock(START_WALL)
    world = World(directory, clock)

    async def main() -> None:
        await world.first_start()
        await create_managed(world)
        await world.settle()
        await story(world)
        await world.down()

    simulate(clock, main)
    assert world.host.violations == []
    return world


def seen(world: World) -> tuple[str, str]:
    (shown,) = world.describe()
    return shown["DBInstanceStatus"], shown["MasterUserSecret"]["SecretStatus"]


def test_a_rotation_that_can_never_succeed_leaves_the_old_password_in_force(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        builds, world.builds.present = world.builds.present, []
        await rotate_by_secret(world)
        assert seen(world)[1] == "rotating"
        await world.tick(5.0)
        assert seen(world)[1] == "impaired"
        world.builds.present = builds
        await reboot(world)
        await world.settle()
        check_agreement(world, pending_too=True)
        control = world.control
        assert control is not None
        with control.store.read() as view:
            (instance,) = view.scan(DBInstance, SCOPE)
            secret = master_secret_of(view, instance)
            assert secret is not None and "not installed" in secret.rotation_failure
        await rotate(world)
        await world.settle()
        check_agreement(world)
        assert seen(world) == ("available", "active")

    live(tmp_path, story)


def test_an_engine_that_fails_while_it_is_to_take_the_password_can_be_repaired(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        assert world.agent is not None
        driver = world.agent._drivers["postgres"]

        async def refuses(*_: object) -> None:
            raise Permanent("the engine takes no accounts")

        driver.apply_accounts = refuses  # type: ignore[assignment,method-assign]
        await rotate(world)
        assert seen(world) == ("resetting-master-credentials", "rotating")
        await world.tick(20.0)
        assert seen(world)[1] == "impaired" and seen(world)[0] != "resetting-master-credentials"
        del driver.apply_accounts
        await reboot(world)  # taken, because nothing is said to be under way
        await world.settle()
        check_agreement(world)
        assert seen(world) == ("available", "active")

    live(tmp_path, story)
