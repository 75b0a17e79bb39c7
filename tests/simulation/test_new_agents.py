"""What is told of an instance while its agent is replaced: nothing but what was so all the time."""

from __future__ import annotations

from pathlib import Path

from mainstay.host.clock import SimulatedClock
from simulation.loop import simulate
from simulation.test_crash_points import START_WALL, create
from simulation.world import World


def test_an_agent_that_begins_anew_is_no_news(tmp_path: Path) -> None:
    clock = SimulatedClock(START_WALL)
    world = World(tmp_path, clock)

    async def live() -> None:
        await world.first_start()
        await create(world)
        await world.settle()
        control = world.control
        assert control is not None
        told = []

        def look(_dbi_resource_id: str) -> None:
            shown = world.describe()[0]
            told.append((shown["DBInstanceStatus"], shown["DBParameterGroups"][0]["ParameterApplyStatus"]))

        control.fleet._on_change = look  # whenever the agent tells anything
        world.kill("agent")
        await world.settle()
        assert len(told) > 1 and set(told) == {("available", "in-sync")}
        await world.down()

    simulate(clock, live)
