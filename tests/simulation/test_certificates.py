"""An engine's certificate is replaced before it ends, once, and the engine goes on."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from mainstay.control.server_certificates import CertificateRenewer
from mainstay.host.certificates import RENEW_BEFORE_S, SERVER_DAYS
from mainstay.host.clock import SimulatedClock
from simulation.loop import simulate
from simulation.test_crash_points import DAY_S, START_WALL, create, stop
from simulation.world import World, authorities

A_WHILE_S = 3600.0


@pytest.mark.parametrize("running", [True, False])
def test_a_certificate_is_replaced_a_month_before_it_ends(tmp_path: Path, running: bool) -> None:
    """The authority's clock is behind when the instance is made: a certificate grows old without a year of events."""
    clock = SimulatedClock(START_WALL)
    world = World(tmp_path, clock)
    behind = SimulatedClock(START_WALL - SERVER_DAYS * DAY_S + RENEW_BEFORE_S + A_WHILE_S)

    async def live() -> None:
        await world.first_start()
        await create(world)
        await world.settle()
        if not running:
            await stop(world)
            await world.settle()
        assert world.control is not None
        renewer = CertificateRenewer(world.control.store, clock, world.control.worker)
        pids = [engine.pid for engine in world.host.engines.values()]
        assert len(pids) == running

        async def look() -> tuple[list[str], float]:
            renewer.look()
            asked_for = [job.program for job in world.jobs() if job.program == "refresh_db_instance"]
            await world.settle()
            till: float = world.describe()[0]["CertificateDetails"]["ValidTill"]
            return asked_for, till - clock.wall()

        asked_for, left_s = await look()
        assert asked_for == [] and RENEW_BEFORE_S < left_s < RENEW_BEFORE_S + A_WHILE_S
        clock.advance(2 * A_WHILE_S)
        with mock.patch.object(authorities(), "_clock", clock):
            asked_for, left_s = await look()
            assert asked_for == ["refresh_db_instance"]
            assert left_s == pytest.approx(SERVER_DAYS * DAY_S, abs=A_WHILE_S)
            assert (await look())[0] == []
        assert [engine.pid for engine in world.host.engines.values()] == pids, "it was restarted"
        await world.down()

    with mock.patch.object(authorities(), "_clock", behind):
        simulate(clock, live)
