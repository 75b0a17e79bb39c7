"""The supervisor and the guardian alone: real processes with real locks in the place of ours."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mainstay.host import guardian
from mainstay.host.layout import ON_DEMAND, PROCESSES, SUPERVISOR, down_marker, lock_path, prepare
from mainstay.host.locks import holder
from mainstay.host.rpc import RpcServer
from mainstay.settings import Settings
from mainstay.supervisor import process as supervising
from mainstay.supervisor.process import Supervisor

PATIENCE_S = 15.0
STAND_IN = """
import sys, time
from pathlib import Path
from mainstay.host.locks import ProcessLock
ProcessLock(Path(sys.argv[1])).acquire()
time.sleep(float(sys.argv[2]))
"""


class Place:
    """A service's directories, and stand-ins for its processes: each holds the lock of the one whose place it takes."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        prepare(self.settings)
        self.started: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.lives_s: dict[str, float] = {}
        self.without_lock: set[str] = set()

    def spawn(self, _settings: Settings, name: str) -> subprocess.Popen[bytes]:
        """As `layout.spawn`."""
        place = self.settings.runtime / "nowhere.lock" if name in self.without_lock else lock_path(self.settings, name)
        life_s = self.lives_s.get(name, 60.0)
        child = subprocess.Popen(
            [sys.executable, "-c", STAND_IN, str(place), str(life_s)], stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.started.append((name, child))
        return child

    def starts(self, name: str) -> int:
        return sum(one == name for one, _ in self.started)

    def pid(self, name: str) -> int | None:
        return holder(lock_path(self.settings, name))

    def end(self) -> None:
        for _, child in self.started:
            child.kill()
            child.wait()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path / "home")
    monkeypatch.setattr(supervising, "spawn", made.spawn)
    monkeypatch.setattr(guardian, "spawn", made.spawn)
    yield made
    made.end()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task: asyncio.Task[None] = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_it_starts_what_is_missing_and_nothing_else(place: Place) -> None:
    async with running(Supervisor(place.settings).run()):
        await until(lambda: all(place.pid(name) for name in PROCESSES))
        await asyncio.sleep(0.3)
        assert sorted(name for name, _ in place.started) == sorted(PROCESSES)


async def test_it_takes_over_what_runs_already_and_hears_of_its_end(place: Place) -> None:
    found = place.spawn(place.settings, "agent")  # not a child that the supervisor has started
    await until(lambda: place.pid("agent"))
    async with running(Supervisor(place.settings).run()):
        await until(lambda: all(place.pid(name) for name in PROCESSES))
        assert place.starts("agent") == 1 and place.pid("agent") == found.pid
        found.kill()
        await until(lambda: place.pid("agent") not in (None, found.pid))
        assert place.starts("agent") == 2


@pytest.mark.parametrize("name", PROCESSES)
async def test_whoever_is_killed_is_started_again_alone(place: Place, name: str) -> None:
    async with running(Supervisor(place.settings).run()):
        await until(lambda: all(place.pid(one) for one in PROCESSES))
        before = {one: place.pid(one) for one in PROCESSES}
        os.kill(before[name] or 0, signal.SIGKILL)
        await until(lambda: place.pid(name) not in (None, before[name]))
        assert {one: place.pid(one) for one in PROCESSES if one != name} == {
            one: pid for one, pid in before.items() if one != name
        }


async def test_one_that_ends_at_once_every_time_is_not_started_in_a_tight_loop(place: Place) -> None:
    place.lives_s["control"] = 0.0
    async with running(Supervisor(place.settings).run()):
        await until(lambda: place.starts("control") >= 4)
        begun = place.starts("control")
        await asyncio.sleep(2.0)
        assert place.starts("control") - begun <= 3  # a pause of a second each by now
        assert place.pid("agent") and place.pid("endpoint")  # the others do not suffer
        place.lives_s["control"] = 60.0
        await until(lambda: place.pid("control"))


async def test_one_that_never_takes_its_lock_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "START_GRACE_S", 0.5)
    place.without_lock.add("control")
    async with running(Supervisor(place.settings).run()):
        await until(lambda: place.starts("control") >= 2)
        first = next(child for name, child in place.started if name == "control")
        await until(lambda: first.poll() == -signal.SIGKILL)  # not left behind, half started
        place.without_lock.clear()
        await until(lambda: place.pid("control"))


async def test_an_on_demand_process_runs_while_it_has_something_to_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "DEMAND_POLL_S", 0.05)
    (name,) = ON_DEMAND
    async with running(Supervisor(place.settings).run()):
        await until(lambda: place.pid("control"))
        await asyncio.sleep(0.3)
        assert place.starts(name) == 0
        (place.settings.home / name).mkdir()
        (place.settings.home / name / "spec.json").write_text("{}")
        await until(lambda: place.pid(name))
        (place.settings.home / name / "spec.json").unlink()
        os.kill(place.pid(name) or 0, signal.SIGKILL)
        await asyncio.sleep(1.0)
        assert place.starts(name) == 1


@pytest.mark.parametrize("agent", ["runs", "was just killed", "is starting"])
async def test_sigterm_stops_everything_and_says_so_to_the_guardians(place: Place, agent: str) -> None:
    stopped: list[int | None] = []

    async def stop_engines(_: object) -> None:
        stopped.append(place.pid("agent"))

    server = RpcServer(place.settings.runtime / "agent.sock", {"stop_engines": stop_engines})
    await server.start()
    down_marker(place.settings).touch()  # of the time before this start
    task = asyncio.ensure_future(Supervisor(place.settings).run())
    await until(lambda: all(place.pid(name) for name in PROCESSES))
    assert not down_marker(place.settings).exists()
    if agent != "runs":
        os.kill(place.pid("agent") or 0, signal.SIGKILL)
        if agent == "is starting":
            await until(lambda: place.starts("agent") == 2)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, PATIENCE_S)
    await server.stop()
    assert down_marker(place.settings).exists()
    assert stopped and stopped[-1], "there was an agent to stop the engines"
    assert len(stopped) == 1 or (agent == "was just killed" and len(stopped) == 2)  # and its successor
    await asyncio.sleep(0.5)
    assert [place.pid(name) for name in PROCESSES] == [None] * len(PROCESSES)
    assert all(child.poll() is not None for _, child in place.started)  # nor does one come up afterwards


async def test_a_guardian_starts_a_supervisor_when_there_is_none(place: Place) -> None:
    async with running(guardian.guard(place.settings)):
        await until(lambda: place.pid(SUPERVISOR))
        first = place.pid(SUPERVISOR)
        await asyncio.sleep(3 * guardian.RETRY_S)
        assert place.starts(SUPERVISOR) == 1  # one is enough
        os.kill(first or 0, signal.SIGKILL)
        await until(lambda: place.pid(SUPERVISOR) not in (None, first))


async def test_a_guardian_leaves_it_down_when_that_is_wanted(place: Place) -> None:
    down_marker(place.settings).touch()
    async with running(guardian.guard(place.settings)):
        await asyncio.sleep(3 * guardian.RETRY_S)
        assert place.started == []
        down_marker(place.settings).unlink()
        await until(lambda: place.pid(SUPERVISOR))


async def test_of_three_guardians_supervisors_one_is_left(place: Place) -> None:
    async with running(guardian.guard(place.settings)), running(guardian.guard(place.settings)):
        async with running(guardian.guard(place.settings)):
            await until(lambda: place.pid(SUPERVISOR))
            alive = [child for _, child in place.started if child.pid != place.pid(SUPERVISOR)]
            await until(lambda: all(child.poll() is not None for child in alive))  # refused by the lock
            os.kill(place.pid(SUPERVISOR) or 0, signal.SIGKILL)
            await until(lambda: place.pid(SUPERVISOR))
            await asyncio.sleep(2 * guardian.RETRY_S)
            assert sum(child.poll() is None for _, child in place.started) == 1


async def test_a_process_that_is_gone_already_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    await asyncio.wait_for(guardian.process_ended(child.pid), 5)
