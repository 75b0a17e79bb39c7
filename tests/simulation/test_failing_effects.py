"""Effects that fail, or succeed and report failure; engines that do not start; an agent that is away for long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from mainstay.host.clock import SimulatedClock
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec
from simulation.effects import fail_randomly, undisturbed
from simulation.loop import simulate
from simulation.state import end_state
from simulation.test_crash_points import (
    SCENARIOS,
    START_WALL,
    Prepared,
    create,
    delete,
    group,
    larger,
    reboot,
    set_parameter,
    stop,
    unused_group,
)
from simulation.twins import BROKEN_VALUE, MUTE_VALUE, STUBBORN_VALUE
from simulation.world import SCOPE, TERRAFORM_TAKES, World

RANDOM = ["create", "modify_class", "rename", "stop", "start", "delete", "dynamic_parameter", "static_parameter",
          "create_with_backups", "snapshot", "backups_off", "restore_latest", "delete_with_final_snapshot",
          "copy_elsewhere"]  # fmt: skip
ATTEMPTS_PER_EFFECT_MAX = 12


def live(directory: Path, story: Callable[[World], Awaitable[None]]) -> World:
    """A world from its first start to the end of the story."""
    clock = SimulatedClock(START_WALL)
    world = World(directory, clock)

    async def main() -> None:
        await world.first_start()
        await story(world)
        await world.down()

    simulate(clock, main)
    assert world.host.violations == []
    return world


@pytest.mark.parametrize("name", RANDOM)
def test_transient_failures_change_nothing_in_the_end(name: str, tmp_path: Path) -> None:
    prelude, scenario = SCENARIOS[name]
    prepared = Prepared(tmp_path, prelude)
    calm, expected = prepared.run(scenario, lambda _world: undisturbed)
    for seed in range(6):
        world, state = prepared.run(scenario, lambda _world, s=seed: fail_randomly(s, 0.2))  # type: ignore[misc]
        assert state == expected, (seed, world.effects.trace)
        assert set(world.words) <= TERRAFORM_TAKES
        assert len(world.effects.trace) < ATTEMPTS_PER_EFFECT_MAX * len(calm.effects.trace), "attempts without bound"


def test_an_engine_that_never_starts_is_told_and_healed_by_a_repairing_change_and_a_reboot(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        await group(world)
        await world.settle()
        await set_parameter(world, "shared_buffers", BROKEN_VALUE, "pending-reboot")
        await reboot(world)
        launches = len(world.effects.trace)
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "incompatible-parameters"
        assert world.effects.trace[launches:].count("shims.launch") <= 5
        before = len(world.effects.trace)
        await world.tick(300.0)
        assert "shims.launch" not in world.effects.trace[before:], "it goes on for ever"
        await set_parameter(world, "shared_buffers", "4096", "pending-reboot")
        await reboot(world)
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "available"
        (engine,) = world.host.engines.values()
        assert '"shared_buffers": "4096"' in engine.settings
        assert not any(status.fatal or status.failure for status in world.statuses())

    live(tmp_path, story)


def told(world: World) -> list[str]:
    assert world.control is not None
    with world.control.store.read() as view:
        return [f"{event.event_id} {event.message}" for event in view.events(SCOPE, 0, 1e12)]


def test_a_creation_with_settings_that_the_engine_does_not_start_with_says_so_in_the_engines_words(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        await unused_group(world)
        await set_parameter(world, "shared_buffers", BROKEN_VALUE, "pending-reboot")
        await create(world, DBParameterGroupName="mine")
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "incompatible-parameters"
        [said] = [one for one in told(world) if one.startswith("RDS-EVENT-0035")]
        assert "ended with status 1 while starting: the settings are nonsense. Change or reset" in said
        assert "in the DB parameter group mine, then reboot the DB instance." in said
        assert not any("/" in one for one in told(world)), "no place on the host is told"
        await set_parameter(world, "shared_buffers", "4096", "pending-reboot")
        await reboot(world)
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "available"

    live(tmp_path, story)


@pytest.mark.parametrize("value", [MUTE_VALUE, STUBBORN_VALUE])
def test_a_creation_that_the_engine_answers_with_errors_ends_and_is_healed_by_another_value(
    value: str, tmp_path: Path
) -> None:
    async def story(world: World) -> None:
        await unused_group(world)
        await set_parameter(world, "work_mem", value, "immediate")
        await create(world, DBParameterGroupName="mine")
        begun = world.clock.wall()
        await world.settle()
        assert world.clock.wall() - begun < 60.0
        assert world.describe()[0]["DBInstanceStatus"] == "incompatible-parameters"
        assert any("RDS-EVENT-0035" in one and "nonsense in work_mem" in one for one in told(world))
        (engine,) = world.host.engines.values()
        await world.tick(300.0)
        assert list(world.host.engines.values()) == [engine], "another start with the same settings is of no use"
        await set_parameter(world, "work_mem", "4096", "immediate")
        await world.settle()
        (healed,) = world.host.engines.values()
        assert healed is not engine and '"work_mem": "4096"' in healed.settings
        await reboot(world)
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "available"
        assert not any(status.fatal or status.failure for status in world.statuses())

    live(tmp_path, story)


def test_a_reboot_that_the_engine_answers_with_errors_ends_and_is_healed_by_another_one(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        await group(world)
        await world.settle()
        await set_parameter(world, "work_mem", MUTE_VALUE, "pending-reboot")
        await reboot(world)
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "incompatible-parameters"
        assert [one for one in told(world) if "RDS-EVENT-0035" in one and "nonsense in work_mem" in one]
        await set_parameter(world, "work_mem", "4096", "pending-reboot")
        await reboot(world)
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "available"

    live(tmp_path, story)


def test_an_agent_away_for_an_hour_delays_everything_and_loses_nothing(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        world.kill("agent")
        await larger(world)
        revive, world.revive = world.revive, world.noticed_deaths  # type: ignore[method-assign, assignment]
        assert world.agent is not None
        dead = world.agent
        world.noticed_deaths = lambda: False  # type: ignore[method-assign]
        await world.tick(3600.0)
        assert world.describe()[0]["DBInstanceStatus"] == "modifying"
        (job,) = [job for job in world.jobs() if job.program == "modify_db_instance"]
        assert job.overdue
        assert world.agent is dead
        assert len(world.effects.trace) < 2000, "it must not spin while the agent is away"
        del world.noticed_deaths
        world.revive = revive  # type: ignore[method-assign]
        world.up()
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "available"
        assert world.control is not None
        with world.control.store.read() as view:
            late = [event.message for event in view.events(SCOPE, 0, 1e12) if event.event_id == "RDS-EVENT-0044"]
        assert len(set(late)) == len(late), "each is told once"
        assert "modify_db_instance is late: no reason is known" in late

    live(tmp_path, story)


def test_a_stop_that_is_ignored_is_followed_by_stronger_signals(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        (engine,) = world.host.engines.values()
        engine.deaf_to = frozenset({2, 3})
        await stop(world)
        await world.settle()
        assert list(dict.fromkeys(engine.signals)) == [2, 3, 9], "each again and again, then the next"
        assert world.describe()[0]["DBInstanceStatus"] == "stopped"

    live(tmp_path, story)


def test_an_engine_that_ends_just_when_it_is_to_be_stopped_spares_its_successor(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        ((node_id, engine),) = world.host.engines.items()
        assert world.agent is not None
        (keeper,) = world.agent.keepers.values()
        hands = keeper.hands
        begin = hands._begin_stop

        async def race(*what: object) -> None:
            await begin(*what)  # type: ignore[arg-type]
            world.host.end(node_id, engine, 0)

        hands._begin_stop = race  # type: ignore[method-assign, assignment]
        await reboot(world)
        await world.settle()
        (successor,) = world.host.engines.values()
        await world.tick(200.0)
        assert successor is not engine and successor.signals == []
        assert world.effects.trace.count("shims.launch") == 2

    live(tmp_path, story)


def test_an_engine_that_dies_is_started_again_under_the_same_token(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        for _ in range(3):
            ((node_id, engine),) = world.host.engines.items()
            world.host.end(node_id, engine, -9)
            await world.settle()
            await world.tick(1.0)
            (present,) = world.host.engines.values()
            assert present is not engine and present.tag == engine.tag
            (route,) = world.host.routes.values()
            assert route[2] is not None, "clients may connect again"

    live(tmp_path, story)


def test_a_failure_of_an_older_spec_is_not_held_against_the_newer_one(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        assert world.agent is not None
        agent, driver = world.agent, world.agent._drivers["postgres"]

        async def outdated(spec: NodeSpec, *_rest: object) -> None:
            del driver.initialise
            await agent.put_node(msgspec.to_builtins(msgspec.structs.replace(spec, generation=spec.generation + 1)))
            raise Permanent("the older spec could not be done")

        driver.initialise = outdated  # type: ignore[method-assign, assignment]
        await create(world)
        await world.settle()
        assert world.describe()[0]["DBInstanceStatus"] == "available"

    live(tmp_path, story)


def test_a_missing_build_is_told_and_forgotten_once_it_is_back(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        builds, world.builds.present = world.builds.present, []
        ((node_id, engine),) = world.host.engines.items()
        world.host.end(node_id, engine, -9)
        await world.tick(1.0)
        (status,) = world.statuses()
        assert status.fatal and "not installed" in status.failure
        world.builds.present = builds
        await world.tick(30.0)
        (status,) = world.statuses()
        assert (status.phase, status.fatal, status.failure) == ("running", False, "")

    live(tmp_path, story)


def test_a_rename_whose_name_was_taken_meanwhile_leaves_both_instances_alone(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        await world.call("ModifyDBInstance", DBInstanceIdentifier="db1", NewDBInstanceIdentifier="wanted")
        await world.settle()
        await world.call("CreateDBInstance", DBInstanceIdentifier="wanted", Engine="postgres", EngineVersion="17.5",
                         DBInstanceClass="db.t3.micro", AllocatedStorage=20, MasterUsername="chief",
                         MasterUserPassword="secret-99", BackupRetentionPeriod=0)  # fmt: skip
        await world.settle()
        for _ in range(7 * 24 * 3):
            world.clock.advance(1200.0)
            await world.tick()
        await world.settle()
        names = {one["DBInstanceIdentifier"]: one["DBInstanceStatus"] for one in world.describe()}
        assert names == {"db1": "available", "wanted": "available"}
        assert world.jobs() == []

    live(tmp_path, story)


def test_nothing_is_left_of_an_instance_deleted_in_any_state(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.settle()
        clean = end_state(world)
        for pause_s in (0.0, 0.06, 0.1, 0.2, 0.3):
            await create(world)
            await world.tick(pause_s)
            await delete(world)
            await world.settle()
            left = end_state(world)
            left["events"] = clean["events"]
            kinds = {"db-parameter-group", "option-group", "db-subnet-group"}
            left["records"] = [row for row in left["records"] if row[0] not in kinds]
            left["index"] = [row for row in left["index"] if row[0] not in kinds]
            assert left == clean, pause_s

    live(tmp_path, story)
