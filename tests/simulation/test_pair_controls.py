"""Positive controls: each breaks one sentence of the two-node rule in the real code, and the simulator must notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from mainstay.agent.pair import Pair
from mainstay.decide import failover
from mainstay.host.files import write_atomically
from mainstay.host.leases import LocalLeases
from simulation.database import Server
from simulation.ledger import Violation
from simulation.pair_world import INSTANCE, PairWorld, live
from simulation.test_pair import cut_link, freeze_primary, freeze_standby, kill_primary, kill_standby
from simulation.twins import SimulatedDriver

SEEDS_MAX = 40
Sabotage = Callable[[], AbstractContextManager[Any]]


async def a_few_faults(world: PairWorld) -> None:
    """Enough for any of the controls; nobody asks whether it heals."""
    await world.converge()
    for _ in range(4):
        world.draw.choice((kill_primary, freeze_primary, freeze_standby, kill_standby, cut_link))(world)
        await asyncio.sleep(world.draw.choice((0.3, 2.0, 8.0, 12.0)))
        world.ledger.check()


def violation_within(directory: Path, story: Callable[[PairWorld], Any]) -> str | None:
    """What the first seed that notices says."""
    for seed in range(SEEDS_MAX):
        try:
            live(directory / str(seed), seed, story)
        except Violation as violation:
            return str(violation).splitlines()[0]
    return None


def released_before_recorded() -> AbstractContextManager[Any]:
    record_alone = Pair._record_alone

    async def sabotage(self: Pair, row: Any, leader: Any, standby: Any) -> None:
        self._sync_wanted = False
        self._assign()
        await asyncio.sleep(3.0)
        await record_alone(self, row, leader, standby)

    return mock.patch.object(Pair, "_record_alone", sabotage)


def no_fencing() -> AbstractContextManager[Any]:
    async def sabotage(self: PairWorld, volume: Path) -> int:
        return 0

    return mock.patch.object(PairWorld, "fence", sabotage)


async def _yes(*_what: Any) -> bool:
    return True


def recorded_without_confirmation() -> AbstractContextManager[Any]:
    return mock.patch.object(SimulatedDriver, "confirm_synchronous", _yes)


@contextmanager
def asynchronous_replication() -> Iterator[None]:
    configuration = SimulatedDriver.configuration

    async def sabotage(self: SimulatedDriver, *what: Any) -> dict[str, str]:
        rendered = await configuration(self, *what)
        return {name: text.replace('"synchronous_standby"', '"nobody"') for name, text in rendered.items()}

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(SimulatedDriver, "configuration", sabotage))
        stack.enter_context(mock.patch.object(SimulatedDriver, "confirm_synchronous", _yes))
        yield


@contextmanager
def promoted_whatever_the_record_says() -> Iterator[None]:
    take_over = Pair._take_over

    def sabotage(self: Pair, row: Any, leader: Any, standby: Any) -> None:
        assert self._record is not None
        self._replace(self._record.in_sync(standby.spec.node_id, "", "", 0.0))
        take_over(self, row, leader, standby)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(failover, "_may_take_over", lambda view: view.standby_running))
        stack.enter_context(mock.patch.object(Pair, "_take_over", sabotage))
        yield


@contextmanager
def restarted_primary_shown_at_once() -> Iterator[None]:
    table = tuple(row for row in failover.TABLE if row.name != "primary-restarted")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(failover, "TABLE", table))
        stack.enter_context(mock.patch.object(Pair, "_record_knows", lambda _pair, _leader: True))
        stack.enter_context(mock.patch.object(Pair, "_may_start", lambda _pair, _leader, _standby, **_in_sync: True))
        stack.enter_context(mock.patch.object(failover, "_may_take_over", lambda _view: False))
        yield


@pytest.mark.parametrize(
    ("sabotage", "invariant"),
    [
        (released_before_recorded, "I3"),
        (no_fencing, "I1"),
        (recorded_without_confirmation, "I3"),
        (asynchronous_replication, "I3"),
        (promoted_whatever_the_record_says, "I"),
        (restarted_primary_shown_at_once, "I3"),
    ],
)
def test_sabotage_is_found_out(sabotage: Sabotage, invariant: str, tmp_path: Path) -> None:
    with sabotage():
        found = violation_within(tmp_path, a_few_faults)
    assert found is not None and f": {invariant}" in found, found


def test_without_sabotage_the_same_lives_are_blameless(tmp_path: Path) -> None:
    for seed in range(15):
        live(tmp_path / str(seed), seed, a_few_faults)


async def _another_agent_degrades_meanwhile(world: PairWorld) -> None:
    """While a failover fences, somebody else records ALONE: what was decided on is not true any more."""
    await world.converge()
    fence = world.fence

    async def slow_fence(volume: Path) -> int:
        leases = LocalLeases(world.directory / "leases")
        record = leases.read(INSTANCE)
        assert record is not None
        if record.standby:
            write_atomically(leases._path(INSTANCE), _encoded(record.alone("said another agent", 0.0)))
            world._record_changed()
        return await fence(volume)

    with mock.patch("mainstay.agent.node_engine.fence", slow_fence):
        kill_primary(world)
        await world.converge()
    await world.check_end()


def _encoded(record: Any) -> bytes:
    return msgspec.json.encode(record)


def test_a_decision_made_on_an_older_record_never_takes_effect(tmp_path: Path) -> None:
    world = live(tmp_path / "true", 5, _another_agent_degrades_meanwhile)
    assert [record.epoch for record in world.records if record.reason == "said another agent"] == [1]
    assert world.records[-1].epoch == 1, "the standby was promoted on a stale record"

    def blind(self: LocalLeases, dbi_resource_id: str, _expected: Any, record: Any) -> None:
        write_atomically(self._path(dbi_resource_id), _encoded(record))

    with mock.patch.object(LocalLeases, "replace", blind), pytest.raises(Violation, match="I5"):
        live(tmp_path / "blind", 5, _another_agent_degrades_meanwhile)


# An engine whose follower forgets, when its process ends, what it has received and not applied.


@contextmanager
def forgetful_followers(*, admitted: bool) -> Iterator[None]:
    """Followers that lose the end of what they have acknowledged when they crash; the driver says so, or does not."""
    end = Server.end

    def forgetting(self: Server) -> None:
        end(self)
        if self.follows:
            del self.disk.wal[max(0, len(self.disk.wal) - 5) :]
            self.disk.flushed = len(self.disk.wal)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Server, "end", forgetting))
        stack.enter_context(mock.patch.object(SimulatedDriver, "keeps_received", not admitted))
        yield


async def both_killed_again_and_again(world: PairWorld) -> None:
    await world.converge()
    for _ in range(3):
        kill_standby(world)
        kill_primary(world)
        await asyncio.sleep(world.draw.choice((2.0, 8.0, 15.0)))
        world.ledger.check()


def test_a_standby_that_forgets_must_not_take_over_in_another_process(tmp_path: Path) -> None:
    with forgetful_followers(admitted=False):
        found = violation_within(tmp_path / "hidden", both_killed_again_and_again)
    assert found is not None and ": I2" in found, found
    with forgetful_followers(admitted=True):
        for seed in range(15):
            live(tmp_path / "admitted" / str(seed), seed, both_killed_again_and_again)
            live(tmp_path / "admitted, a few faults" / str(seed), seed, a_few_faults)
