"""A pump that is a process: killed, frozen, talking nonsense, left alone."""

from __future__ import annotations

import itertools
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.pumps import TIMEOUT_S, RunningPump, carried_pair, frozen, state_of
from harness.service import eventually
from mainstay.endpoint import limits
from mainstay.endpoint.carrier import Tag
from mainstay.endpoint.pump_process import PumpProcess
from mainstay.host.processes import raise_file_limit
from mainstay.host.records import Record

OLD = Tag("old", 1, ("127.0.0.1", 1))
NEW = Tag("new", 1, ("127.0.0.1", 1))


@pytest.fixture
def process() -> Iterator[RunningPump]:
    running = RunningPump("process")
    yield running
    running.stop()


def _carrier(process: RunningPump) -> PumpProcess:
    assert isinstance(process.carrier, PumpProcess)
    return process.carrier


def _is_reset(end: socket.socket) -> bool:
    try:
        return bool(end.recv(1)) and False
    except ConnectionResetError:
        return True


def _carries(client: socket.socket, engine: socket.socket) -> bool:
    client.sendall(b"question")
    asked = engine.recv(8)
    engine.sendall(b"answer")
    return (asked, client.recv(6)) == (b"question", b"answer")


def test_killed_its_connections_are_reset_and_their_tags_given_back(process: RunningPump) -> None:
    old, new = process.connect(OLD), process.connect(NEW)
    ends = [*old, *new]
    assert _carries(*old) and _carries(*new)
    os.kill(_carrier(process).pid, signal.SIGKILL)
    eventually(lambda: len(process.closed) == 2)
    assert all(_is_reset(end) for end in ends), (
        "nothing was unread: by itself the kernel would have ended them in order"
    )
    assert sorted(process.closed) == [NEW, OLD]
    assert not _carrier(process).alive
    assert state_of(_carrier(process).pid) == "", "it is buried"
    assert all(_is_reset(end) for end in process.connect(OLD)), "it takes nothing more"
    eventually(lambda: process.closed.count(OLD) == 2)


def test_frozen_at_a_cut_it_is_killed_and_only_then_the_cut_is_done(
    process: RunningPump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUMP_END_TIMEOUT_S", 0.2)
    old, new = process.connect(OLD), process.connect(NEW)
    assert _carries(*old) and _carries(*new)
    with frozen(_carrier(process).pid):
        late = process.connect(OLD)  # it is on its way to the pump
        assert process.cut(lambda tag: tag == OLD) == 2
        assert state_of(_carrier(process).pid) == ""
    assert all(_is_reset(end) for end in (*old, *late, *new))
    assert sorted(process.closed) == [NEW, OLD, OLD]


def test_frozen_at_its_end_it_is_killed(process: RunningPump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUMP_END_TIMEOUT_S", 0.2)
    ends = process.connect()
    assert _carries(*ends)
    with frozen(_carrier(process).pid):
        process.stop_pump()
        assert state_of(_carrier(process).pid) == ""
    assert all(_is_reset(end) for end in ends)
    assert len(process.closed) == 1


def test_told_to_end_it_does_so_in_order(process: RunningPump) -> None:
    ends = process.connect()
    assert _carries(*ends)
    process.stop_pump()
    assert _carrier(process)._process.returncode == 0
    assert all(_is_reset(end) for end in ends)


def test_a_cut_is_for_those_that_it_picks_however_many(process: RunningPump) -> None:
    old, new = process.connect(OLD), process.connect(NEW)
    gone = process.connect(OLD)
    for end in gone:
        end.close()
    eventually(lambda: len(process.closed) == 1)
    # Numbers are all that it is told: so many more than one record holds, of pairs that it does not have.
    _carrier(process).tags.update((number, OLD) for number in range(1_000_000, 1_010_000))
    assert process.cut(lambda tag: tag == OLD) == 1
    assert process.closed.count(OLD) == 10_002
    assert all(_is_reset(end) for end in old)
    assert _carries(*new)


def test_whoever_adds_connections_never_waits_for_it(process: RunningPump) -> None:
    raise_file_limit()
    pid = _carrier(process).pid
    with ExitStack() as stack:
        outer = []
        with frozen(pid):
            for _ in range(450):
                ends, inner = carried_pair(socket.socketpair)
                outer.append(tuple(stack.enter_context(end) for end in ends))
                process.add(*inner)
            assert not _carrier(process).keeps_up
        for client, engine in outer:
            client.settimeout(TIMEOUT_S)
            engine.settimeout(TIMEOUT_S)
            assert _carries(client, engine)
        assert _carrier(process).keeps_up


def test_without_descriptors_it_resets_what_it_cannot_take_and_goes_on(process: RunningPump) -> None:
    pid = _carrier(process).pid
    first = process.connect()
    assert _carries(*first)
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    room_for_one = next(number for number in itertools.count() if number not in used) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (room_for_one, room_for_one))
    surplus = process.connect()
    assert all(_is_reset(end) for end in surplus)
    eventually(lambda: len(process.closed) == 1)
    assert _carries(*first)


@pytest.mark.parametrize("nonsense", [b"?", b"C123"])
def test_orders_that_are_none_end_it(capfd: pytest.CaptureFixture[str], process: RunningPump, nonsense: bytes) -> None:
    ends = process.connect()
    assert _carries(*ends)

    async def say() -> None:
        _carrier(process)._channel.send(nonsense)

    process.call(say())
    eventually(lambda: len(process.closed) == 1)
    assert all(_is_reset(end) for end in ends)
    assert "ValueError" in capfd.readouterr().out, "it says why"


def test_a_process_that_says_nonsense_is_killed(process: RunningPump) -> None:
    ends = process.connect()
    assert _carries(*ends)

    async def hear(data: bytes) -> None:
        _carrier(process)._heard(Record(data, []))

    process.call(hear(b"X123"))
    eventually(lambda: len(process.closed) == 1)
    assert state_of(_carrier(process).pid) == ""
    assert all(_is_reset(end) for end in ends)


PARENT = """
import asyncio
import sys
from mainstay.endpoint.pumps import Pumps

async def main():
    pumps = Pumps(lambda tag: None, processes_max=2)
    pumps.start()
    await pumps.grow()
    print(*[one["pid"] for one in pumps.state() if one["pid"]], file=sys.stderr, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_no_process_outlives_its_parent_not_even_a_frozen_one() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stderr is not None
            pids = [int(pid) for pid in parent.stderr.readline().split()]
            assert len(pids) == 2
            ends = [os.pidfd_open(pid) for pid in pids]
            os.kill(pids[0], signal.SIGSTOP)
        finally:
            parent.kill()
    for end in ends:
        assert select.select([end], [], [], TIMEOUT_S)[0], "it lives on"
        os.close(end)


def test_it_is_small(process: RunningPump) -> None:
    modules = "import mainstay.endpoint.pump_worker, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "structlog", "msgspec", "logging", "botocore"} & {*loaded}
    status = Path(f"/proc/{_carrier(process).pid}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kb < 25_000
