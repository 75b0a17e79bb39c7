"""The two-node rule in simulated time: any fault, at any moment, in any order. A failing seed prints itself.

`MAINSTAY_PAIR_SEEDS=10000-30000` runs those seeds instead of the usual ones.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mainstay.model.errors import Answered
from mainstay.model.node import NodeSpec, NodeTarget
from simulation.pair_world import PairWorld, crash_backend, live, lose_data
from simulation.twins import SimulatedDriver

SEEDS = range(0, 120)
CHUNKS = 8


def seeds() -> list[int]:
    """Those asked for, or the usual ones."""
    first, _, last = os.environ.get("MAINSTAY_PAIR_SEEDS", "").partition("-")
    return list(range(int(first), int(last or first) + 1)) if first else list(SEEDS)


# Faults


def _engine(world: PairWorld, which: str):  # type: ignore[no-untyped-def]
    record = world.record()
    leader = record.primary if record is not None else "node-1"
    for node_id, engine in world.host.engines.items():
        if (node_id == leader) == (which == "primary"):
            return engine
    return None


def _kill(world: PairWorld, which: str) -> None:
    engine = _engine(world, which)
    if engine is not None:
        world.host.end(engine.server.node_id, engine, -9)


def _freeze(world: PairWorld, which: str) -> None:
    engine = _engine(world, which)
    if engine is not None and not engine.server.frozen:
        engine.server.freeze()
        _later(world, engine.server.thaw)


def _later(world: PairWorld, undo) -> None:  # type: ignore[no-untyped-def]
    asyncio.get_running_loop().call_later(world.draw.choice((0.3, 2.0, 6.0, 20.0)), undo)


def kill_primary(world: PairWorld) -> None:
    _kill(world, "primary")


def kill_standby(world: PairWorld) -> None:
    _kill(world, "standby")


def kill_both(world: PairWorld) -> None:
    for which in world.draw.sample(("primary", "standby"), 2):
        _kill(world, which)


def freeze_primary(world: PairWorld) -> None:
    _freeze(world, "primary")


def freeze_standby(world: PairWorld) -> None:
    _freeze(world, "standby")


def cut_link(world: PairWorld) -> None:
    world.host.weather.link_cut = True
    _later(world, lambda: setattr(world.host.weather, "link_cut", False))


def kill_agent(world: PairWorld) -> None:
    if world.agent is not None:
        world.agent.life.kill()


def kill_agent_at_some_effect(world: PairWorld) -> None:
    world.stray_kill = world.draw.choice((0.05, 0.3, 1.0))


def fill_disk(world: PairWorld) -> None:
    world.disk_full = True
    _later(world, lambda: setattr(world, "disk_full", False))


def slow_down(world: PairWorld) -> None:
    world.host.weather.slowness = world.draw.choice((3.0, 10.0))
    _later(world, lambda: setattr(world.host.weather, "slowness", 1.0))


def crash_a_backend(world: PairWorld) -> None:
    engine = _engine(world, "primary")
    if engine is not None and not engine.server.frozen:
        crash_backend(world, engine)


def break_disk(world: PairWorld) -> None:
    engine = _engine(world, "primary")
    if engine is not None:
        engine.server.broken_disk = True
        _later(world, lambda: setattr(engine.server, "broken_disk", False))


def lose_standby_data(world: PairWorld) -> None:
    record = world.record()
    primary = _engine(world, "primary")
    if record is None or primary is None or primary.server.frozen or not primary.server.open:
        return
    for node_id in world.specs:
        if node_id != record.primary:
            lose_data(world, node_id)


def new_endpoint_process(world: PairWorld) -> None:
    if world.agent is not None and world.agent.life.alive:
        world.agent._endpoint_state(True)


# Changes of the control plane


def reboot(world: PairWorld) -> None:
    token = max(spec.restart_token for spec in world.specs.values()) + 1
    world.change(restart_token=token, rolling=False)


def rolling_restart(world: PairWorld) -> None:
    token = max(spec.restart_token for spec in world.specs.values()) + 1
    world.change(restart_token=token, rolling=True)


def fail_over(world: PairWorld) -> None:
    token = max(spec.failover_token for spec in world.specs.values()) + 1
    world.change(failover_token=token)


def new_parameters(world: PairWorld) -> None:
    world.change(parameters={"work_mem": str(world.draw.randrange(1, 9999))})


def stop_or_start(world: PairWorld) -> None:
    if any(spec.target is NodeTarget.ABSENT for spec in world.specs.values()):
        return
    stopped = any(spec.target is NodeTarget.STOPPED for spec in world.specs.values())
    world.change(target=NodeTarget.RUNNING if stopped else NodeTarget.STOPPED)


def change_multi_az(world: PairWorld) -> None:
    world.forget_absent()
    if len(world.specs) == 1 and next(iter(world.specs.values())).target is NodeTarget.RUNNING:
        world.add_standby()
    elif len(world.specs) == 2 and all(spec.target is NodeTarget.RUNNING for spec in world.specs.values()):
        world.remove_standby()


FAULTS = {
    kill_primary: 5, kill_standby: 4, kill_both: 2, freeze_primary: 3, freeze_standby: 3, cut_link: 3, kill_agent: 3,
    kill_agent_at_some_effect: 5, fill_disk: 3, slow_down: 2, crash_a_backend: 2, break_disk: 1, lose_standby_data: 1,
    new_endpoint_process: 1, reboot: 2, rolling_restart: 2, fail_over: 3, new_parameters: 1, stop_or_start: 2,
    change_multi_az: 2,
}  # fmt: skip


async def story(world: PairWorld) -> None:
    """Faults close together and far apart, then rest."""
    await world.converge()
    for _ in range(world.draw.randrange(3, 14)):
        fault = world.draw.choices(list(FAULTS), list(FAULTS.values()))[0]
        world.note(fault.__name__)
        fault(world)
        await asyncio.sleep(world.draw.choice((0.0, 0.01, 0.1, 0.7, 2.0, 8.0)))
        world.ledger.check()
    world.heal()
    world.note("healed")
    if any(spec.target is NodeTarget.STOPPED for spec in world.specs.values()):
        stop_or_start(world)
    await world.converge()
    if len(world.specs) == 1:
        world.add_standby()
        await world.converge()
    await world.check_end()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_acknowledged_commit_is_lost_whatever_happens(chunk: int, tmp_path: Path) -> None:
    for seed in seeds()[chunk::CHUNKS]:
        live(tmp_path / str(seed), seed, story)


async def deleted(world: PairWorld) -> None:
    """Both nodes are to go; the agent dies on the way, again and again."""
    await world.converge()
    world.change(target=NodeTarget.ABSENT)
    until = world.clock.monotonic() + 60.0
    nodes = world.directory / "nodes"
    while any(nodes.iterdir()) or world.host.engines:
        world.stray_kill = 0.05 if world.clock.monotonic() < until - 40.0 else 0.0
        await asyncio.sleep(0.2)
        assert world.clock.monotonic() < until, "something of the deleted instance is left for ever"
    assert not world.host.routes


def test_nothing_is_left_of_a_deleted_pair_whenever_the_agent_dies(tmp_path: Path) -> None:
    for seed in range(25):
        live(tmp_path / str(seed), seed, deleted)


async def ended_as_it_was_told_to_lead(world: PairWorld) -> None:
    """As after a power cut, where an engine may end at its first start: it is told again when it has been started."""
    await world.converge()
    promote, told = SimulatedDriver.promote, []

    async def fatal(driver: SimulatedDriver, spec: NodeSpec, *rest: Any) -> None:
        await promote(driver, spec, *rest)
        told.append(spec.node_id)
        if len(told) == 1:
            world.host.end(spec.node_id, world.host.engines[spec.node_id], 1)
            await asyncio.sleep(0.1)

    with mock.patch.object(SimulatedDriver, "promote", fatal):
        kill_primary(world)
        await world.converge()
    assert len(told) > 1
    await world.check_end()


def test_an_engine_that_ends_while_it_is_promoted_leads_after_its_next_start(tmp_path: Path) -> None:
    for seed in range(5):
        live(tmp_path / str(seed), seed, ended_as_it_was_told_to_lead)


async def lost_before_it_was_told_to_lead(world: PairWorld) -> None:
    """The standby's data goes with the primary's process: nobody but the former primary has the commits."""
    await world.converge()
    lose_standby_data(world)
    await asyncio.sleep(world.draw.choice((0.0, 0.002, 0.01)))
    kill_primary(world)
    if world.draw.random() < 0.7:
        await asyncio.sleep(world.draw.choice((0.0, 0.005, 0.01, 0.02, 0.05)))
        kill_agent(world)
    world.heal()
    await world.converge()
    await world.check_end()


def test_a_standby_that_lost_its_data_before_it_was_told_to_lead_gives_the_lead_back(tmp_path: Path) -> None:
    taken_back = 0
    for seed in range(40):
        world = live(tmp_path / str(seed), seed, lost_before_it_was_told_to_lead)
        record = world.record()
        taken_back += record is not None and any(one.row == "taken-back" for one in record.failovers)
    assert taken_back, "it never led at all"


async def changed_as_it_starts(world: PairWorld) -> None:
    """Parameters are changed while an engine starts, which reads them at some moment, and changed back. It is alone: in
    a pair other settings change then as well, and everything is loaded again for those.
    """

    def set_to(value: str) -> None:
        world.change(parameters={"work_mem": value})

    await world.converge()
    world.remove_standby()
    set_to("1")
    await world.converge()
    kill_primary(world)
    while (engine := _engine(world, "primary")) is None:
        await asyncio.sleep(0.01)
    set_to("2")
    while world.clock.monotonic() < engine.ready_at and '"2"' not in engine.server.settings:
        await asyncio.sleep(0.01)
    set_to("1")
    await world.converge()
    await world.check_end()


def test_an_engine_runs_with_the_settings_that_are_wanted_whenever_it_has_read_them(tmp_path: Path) -> None:
    for seed in range(20):
        live(tmp_path / str(seed), seed, changed_as_it_starts)


async def acknowledging_when_commits_wait(world: PairWorld) -> None:
    """A standby acknowledges, and forces what it does, as soon as commits are told to wait for it, not before."""
    seen: set[tuple[bool, bool]] = set()

    async def look() -> None:
        while True:
            record, agent = world.record(), world.agent
            if record is not None and agent is not None:
                for node_id, keeper in agent.keepers.items():
                    if node_id != record.primary and keeper.hands.engine.process is not None:
                        seen.add((record.standby == node_id, keeper.assignment.acknowledges))
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    await world.converge()
    kill_standby(world)
    await world.converge()
    looking.cancel()
    assert (False, False) in seen and (True, True) in seen and (True, False) not in seen, seen


def test_a_standby_acknowledges_no_sooner_than_commits_are_to_wait_for_it(tmp_path: Path) -> None:
    for seed in range(5):
        live(tmp_path / str(seed), seed, acknowledging_when_commits_wait)


async def asked_to_switch_without_a_standby(world: PairWorld) -> None:
    """The roles stay, and whoever waits is told so in seconds; with a standby that is back the next try is made."""
    await world.converge()
    world.host.weather.link_cut = True
    while (record := world.record()) is None or record.standby:
        await asyncio.sleep(0.1)
    asked_at = world.clock.monotonic()
    fail_over(world)
    while (record := world.record()) is None or not record.given_up:
        assert world.clock.monotonic() < asked_at + 15.0, "a change of roles that is not possible is waited for"
        await asyncio.sleep(0.1)
    assert record.switched_for == record.given_up and not record.failovers
    world.heal()
    await world.converge()
    fail_over(world)
    await world.converge()
    record = world.record()
    assert record is not None and [one.row for one in record.failovers] == ["switch-asked-for"]
    assert record.switched_for == record.given_up + 1
    await world.check_end()


def test_a_change_of_roles_without_a_standby_is_given_up_in_seconds(tmp_path: Path) -> None:
    for seed in range(5):
        live(tmp_path / str(seed), seed, asked_to_switch_without_a_standby)


async def asked_to_switch_and_restart_without_a_standby(world: PairWorld) -> None:
    """As without a restart: the roles stay, and what waited for the restart comes into force with no more ado."""
    await world.converge()
    world.host.weather.link_cut = True
    while (record := world.record()) is None or record.standby:
        await asyncio.sleep(0.1)
    asked_at = world.clock.monotonic()
    fail_over_with_what_waits(world)
    leader = world.agent.keepers[record.primary] if world.agent is not None else None
    assert leader is not None
    while not (world.record() or record).given_up or not leader.current:
        assert world.clock.monotonic() < asked_at + 20.0, "what waited for the restart waits for a standby"
        await asyncio.sleep(0.1)
    world.heal()
    await world.converge()
    record = world.record()
    assert record is not None and not record.failovers
    await world.check_end()


def fail_over_with_what_waits(world: PairWorld) -> None:
    token = 1 + max(max(spec.failover_token, spec.restart_token) for spec in world.specs.values())
    world.change(failover_token=token, restart_token=token, rolling=True)


def test_a_change_of_roles_that_brings_a_restart_is_given_up_as_soon(tmp_path: Path) -> None:
    for seed in range(5):
        live(tmp_path / str(seed), seed, asked_to_switch_and_restart_without_a_standby)


async def asked_to_switch_and_restart(world: PairWorld) -> None:
    """One change of roles, to a standby that was started anew before; both run as is wanted then."""
    await world.converge()
    world.host.weather.slowness = 10.0
    fail_over_with_what_waits(world)
    token = next(iter(world.specs.values())).failover_token
    while (record := world.record()) is None or record.switched_for < token:
        await asyncio.sleep(0.1)
    world.heal()
    await world.converge()
    record = world.record()
    assert record is not None and [one.row for one in record.failovers] == ["switch-to-renew"], record
    assert not record.given_up
    assert world.agent is not None and all(keeper.current for keeper in world.agent.keepers.values())
    await world.check_end()


def test_a_change_of_roles_that_brings_a_restart_is_one_change(tmp_path: Path) -> None:
    for seed in range(10):
        live(tmp_path / str(seed), seed, asked_to_switch_and_restart)


async def answered_with_errors(world: PairWorld) -> None:
    """An engine that answers the same again and again is asked less and less often, and does not end the pair."""
    await world.converge()
    asked_at: list[float] = []

    async def answers(_driver: SimulatedDriver, *_: Any) -> bool:
        asked_at.append(world.clock.monotonic())
        raise Answered("the engine answers with an error: it says no")

    with mock.patch.object(SimulatedDriver, "confirm_synchronous", answers):
        kill_standby(world)
        await asyncio.sleep(40.0)
    assert 4 <= len(asked_at) <= 12, asked_at
    await world.converge()
    asked_at.clear()
    with mock.patch.object(SimulatedDriver, "promote", answers):
        kill_primary(world)
        await asyncio.sleep(40.0)
    assert 4 <= len(asked_at) <= 12, asked_at
    await world.converge()
    await world.check_end()


def test_what_an_engine_answers_again_and_again_is_asked_for_less_often(tmp_path: Path) -> None:
    for seed in range(3):
        live(tmp_path / str(seed), seed, answered_with_errors)
