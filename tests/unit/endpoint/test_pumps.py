"""All pumps together: when processes start and end, what they take over, and that no cut misses anybody."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.pumps import TIMEOUT_S, carried_pair, frozen, state_of
from mainstay.endpoint import limits
from mainstay.endpoint import pump_records as records
from mainstay.endpoint.carrier import Tag
from mainstay.endpoint.pump_process import PumpProcess
from mainstay.endpoint.pumps import Pumps
from mainstay.host.processes import raise_file_limit

OLD = Tag("old", 1, ("127.0.0.1", 1))
NEW = Tag("new", 1, ("127.0.0.1", 1))


class Pair:
    """A carried connection's outer ends."""

    def __init__(self, client: socket.socket, engine: socket.socket) -> None:
        self.client, self.engine = client, engine
        for end in (client, engine):
            end.setblocking(False)

    async def carries(self, content: bytes = b"question") -> bool:
        """Whether the content is carried to the engine and back, unchanged."""
        return await _sent(self.client, self.engine, content) and await _sent(self.engine, self.client, content)

    async def is_reset(self) -> bool:
        """Whether both ends are."""
        loop = asyncio.get_running_loop()
        for end in (self.client, self.engine):
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await loop.sock_recv(end, 1)
            except ConnectionResetError:
                continue
            return False
        return True


async def _sent(source: socket.socket, sink: socket.socket, content: bytes) -> bool:
    loop = asyncio.get_running_loop()
    received = bytearray()
    sending = asyncio.create_task(loop.sock_sendall(source, content))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while len(received) < len(content) and (chunk := await loop.sock_recv(sink, 65536)):
                received += chunk
    except ConnectionError:
        return False
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return received == content


class Rig:
    """Pumps, and connections through them."""

    def __init__(self, **options: Any) -> None:
        self.closed: list[Tag] = []
        self.pumps = Pumps(self.closed.append, **{"processes_max": 2, **options})
        self.pumps.start()
        self.pairs: list[Pair] = []
        self.stopped = False

    def connect(self, tag: Tag = NEW, pair: Callable[[], Any] | None = None) -> Pair:
        ends, inner = carried_pair(pair) if pair else carried_pair()
        self.pumps.add(*inner, tag)
        self.pairs.append(Pair(*ends))
        return self.pairs[-1]

    @property
    def processes(self) -> list[PumpProcess]:
        return self.pumps._processes

    def spread(self) -> list[int]:
        """How many connections each pump has, the thread first."""
        return [int(one["connections"] or 0) for one in self.pumps.state()]

    async def stop(self) -> None:
        """May be called again."""
        if not self.stopped:
            self.stopped = True
            await self.pumps.stop()
        for pair in self.pairs:
            pair.client.close()
            pair.engine.close()


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def build(**options: Any) -> Rig:
        rigs.append(Rig(**options))
        return rigs[-1]

    yield build
    for rig in rigs:
        await rig.stop()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_connections_that_keep_the_thread_busy_get_processes(make: Any) -> None:
    rig = make(busy_share=0.001)
    pairs = [rig.connect() for _ in range(6)]
    assert rig.spread() == [6], "it is not known yet that they are busy"
    async with asyncio.timeout(TIMEOUT_S):
        while len(rig.processes) < 2 or rig.spread()[0] > 1:
            assert all([await pair.carries() for pair in pairs])
    assert rig.spread() == [0, 3, 3]
    assert all([await pair.carries() for pair in pairs])


@pytest.mark.parametrize("options", [{"busy_share": 1000.0}, {"busy_share": 0.0, "processes_max": 0}])
async def test_connections_that_do_little_or_may_not_get_none(make: Any, options: Any) -> None:
    rig = make(**options)
    pairs = [rig.connect() for _ in range(4)]
    for _ in range(3):
        assert all([await pair.carries() for pair in pairs])
        await asyncio.sleep(limits.PUMP_LOOK_INTERVAL_S)
    assert rig.spread() == [4]


async def test_a_single_connection_gets_none_however_busy(make: Any) -> None:
    """It cannot be divided."""
    rig = make(busy_share=0.0)
    pair = rig.connect()
    assert await pair.carries()
    await asyncio.sleep(2 * limits.PUMP_LOOK_INTERVAL_S)
    assert rig.spread() == [1]


async def test_moved_under_way_they_lose_nothing(make: Any) -> None:
    rig = make()
    pairs = [rig.connect() for _ in range(6)]
    content = os.urandom(3_000_000)
    transfers = [asyncio.create_task(pair.carries(content)) for pair in pairs]
    growing = asyncio.create_task(rig.pumps.grow())
    assert all(await asyncio.gather(*transfers))
    await growing
    await rig.pumps.grow()  # what had something under way before goes now
    assert all([await pair.carries(content) for pair in pairs])
    assert rig.spread() == [0, 3, 3]
    assert _watched(rig) == 1, "the thread does not wake up for those it gave away"


def _watched(rig: Rig) -> int:
    """How many descriptors the thread's epoll reports (proc_pid_fdinfo(5))."""
    descriptor = rig.pumps._thread._pump._epoll.fileno()
    return Path(f"/proc/self/fdinfo/{descriptor}").read_text().count("tfd:")


async def test_new_connections_go_to_the_pump_with_the_fewest(make: Any) -> None:
    rig = make()
    await rig.pumps.grow()
    pairs = [rig.connect() for _ in range(5)]
    assert sorted(rig.spread()) == [0, 2, 3]
    assert all([await pair.carries() for pair in pairs])
    with frozen(rig.processes[0].pid):
        while rig.processes[0].keeps_up:  # orders without sockets: it will say that these have ended
            rig.processes[0]._channel.send(records.with_numbers(records.ADD, [1_000_000]))
        before = len(rig.processes[0].tags)
        for _ in range(3):
            rig.connect()
        assert len(rig.processes[0].tags) == before, "it has not taken the last ones yet"


async def test_a_cut_reaches_them_wherever_they_are(make: Any) -> None:
    rig = make()
    old = [rig.connect(OLD) for _ in range(3)]
    new = [rig.connect(NEW) for _ in range(3)]
    growing = asyncio.create_task(rig.pumps.grow())
    await asyncio.sleep(0)
    assert await rig.pumps.cut(lambda tag: tag == OLD) == 3  # before they are moved
    assert [await pair.is_reset() for pair in old] == [True] * 3
    await growing
    old = [rig.connect(OLD) for _ in range(6)]
    assert all([await pair.carries() for pair in (*old, *new)])
    assert min(rig.spread()[1:]) > 1
    assert await rig.pumps.cut(lambda tag: tag == OLD) == 6
    assert [await pair.is_reset() for pair in old] == [True] * 6
    assert all([await pair.carries() for pair in new])
    assert rig.closed == [OLD] * 9


async def test_a_cut_that_meets_a_move_misses_nobody(make: Any) -> None:
    """In whatever moment of the move it comes."""
    rig = make()
    await rig.pumps.grow()
    for delay in range(12):
        rig.pumps._busy_at = float("-inf")  # so that the thread takes them all
        pairs = [rig.connect(OLD) for _ in range(4)]
        moving = asyncio.create_task(rig.pumps.grow())
        for _ in range(delay):
            await asyncio.sleep(0)
        assert await rig.pumps.cut(lambda tag: tag == OLD) == 4
        assert [await pair.is_reset() for pair in pairs] == [True] * 4
        await moving
    assert rig.spread() == [0, 0, 0]


async def test_a_process_that_dies_costs_its_own_connections_and_gets_a_successor(make: Any) -> None:
    rig = make()
    await rig.pumps.grow()
    pairs = [rig.connect() for _ in range(4)]
    assert all([await pair.carries() for pair in pairs])
    died, other = rig.processes
    os.kill(died.pid, signal.SIGKILL)
    await _until(lambda: rig.spread() == [0, 2])
    assert rig.closed == [NEW] * 2
    assert sum([await pair.carries() for pair in pairs]) == 2
    await rig.pumps.grow()
    assert other in rig.processes and died not in rig.processes
    assert len(rig.processes) == 2
    assert [os.sched_getaffinity(one.pid) for one in rig.processes] == [{other.core}, {died.core}]
    assert other.core != died.core or len(os.sched_getaffinity(0)) == 1
    assert await rig.connect().carries()


async def test_one_that_is_frozen_at_a_cut_costs_nobody_elses_connections(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUMP_END_TIMEOUT_S", 0.2)
    rig = make()
    await rig.pumps.grow()
    first, old, second = (rig.connect(tag) for tag in (NEW, OLD, NEW))
    assert all([await pair.carries() for pair in (first, old, second)])
    holder = next(one for one in rig.processes if OLD in one.tags.values())
    assert NEW not in holder.tags.values()
    with frozen(holder.pid):
        assert await rig.pumps.cut(lambda tag: tag == OLD) == 1
        assert state_of(holder.pid) == ""
    assert await old.is_reset()
    assert await first.carries() and await second.carries()
    assert rig.closed == [OLD]


async def test_processes_end_when_there_has_been_little_to_do_and_they_have_nothing(make: Any) -> None:
    rig = make(busy_share=1000.0, idle_s=0.1)
    stays, ends = rig.connect(), rig.connect()
    await rig.pumps.grow()
    assert rig.spread() == [0, 1, 1]
    ended = rig.processes[1].pid
    ends.client.close()
    ends.engine.close()
    await _until(lambda: len(rig.pumps.state()) == 2)
    assert state_of(ended) == ""
    late = [rig.connect() for _ in range(3)]
    assert rig.spread() == [3, 1], "so that it may end some time"
    assert all([await pair.carries() for pair in (stays, *late)])
    left = rig.processes[0].pid
    for pair in (stays, *late):
        pair.client.close()
        pair.engine.close()
    await _until(lambda: len(rig.pumps.state()) == 1)
    assert state_of(left) == ""


async def test_what_the_thread_took_while_there_was_little_to_do_is_moved_later(make: Any) -> None:
    rig = make(busy_share=1000.0, idle_s=0.1)
    held = [rig.connect() for _ in range(2)]
    await rig.pumps.grow()
    assert rig.spread() == [0, 1, 1]
    await _until(lambda: rig.pumps._takers() == [rig.pumps._thread])
    late = [rig.connect() for _ in range(10)]
    assert rig.spread() == [10, 1, 1]
    rig.pumps._busy_share = 0.0
    await _until(lambda: rig.spread() == [0, 6, 6])
    assert all([await pair.carries() for pair in (*held, *late)])


async def test_a_thousand_connections_are_moved(make: Any) -> None:
    rig = make()
    count = min(1200, (raise_file_limit() - 500) // 4)
    pairs = [rig.connect(pair=socket.socketpair) for _ in range(count)]
    rounds = 0
    while rig.pumps._crowded(0.0) or not rig.processes:
        await rig.pumps.grow()
        rounds += 1
    assert rounds <= count // limits.PUMP_MOVED_AT_ONCE + 1
    assert sum(rig.spread()) == count
    assert all([await pair.carries() for pair in pairs])
    assert await rig.pumps.cut(lambda tag: True) == count
    assert len(rig.closed) == count


async def test_processes_that_cannot_be_started_cost_nothing_but_themselves(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mainstay.endpoint.pump_process._COMMAND", ("/nonexistent",))
    rig = make()
    pair = rig.connect()
    await rig.pumps.grow()
    monkeypatch.setattr("mainstay.endpoint.pump_process._COMMAND", ("/bin/false",))
    await rig.pumps.grow()
    await _until(lambda: len(rig.pumps.state()) == 1)
    assert await pair.carries()
    monkeypatch.undo()
    rig.connect()
    assert not rig.pumps._crowded(rig.pumps._loop.time()), "not again at once"
    await rig.pumps.grow()
    assert len(rig.processes) == 2


async def test_when_all_stop_no_process_is_left_even_one_that_only_starts(make: Any) -> None:
    rig = make()
    rig.connect()
    rig.pumps._growth()
    await asyncio.sleep(0)
    pids = [one["pid"] for one in rig.pumps.state() if one["pid"]]
    assert len(pids) == 2
    await rig.stop()
    assert [state_of(pid) for pid in pids] == ["", ""]
    assert rig.closed == [NEW]
