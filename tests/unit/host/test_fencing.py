"""Fencing real process trees: frozen, forking, deaf to signals, with their directory gone."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mainstay.host import fencing
from mainstay.host.fencing import fence, processes_below
from mainstay.model.errors import Transient

TREE = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
for depth in range(3):
    if os.fork():
        break
    os.setsid()
os.write(1, b"%d\\n" % os.getpid())
time.sleep(600)
"""
FORKS = """
import os, time
os.write(1, b"%d\\n" % os.getpid())
for _ in range(2000):
    if not os.fork():
        time.sleep(600)
    time.sleep(0.001)
"""
"""As a postmaster under many connections: it lives on, and another child is born every millisecond."""

Start = Callable[[str, Path], list[int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python code in a directory; returns the pids that it prints. Nothing is left afterwards."""
    started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def begin(code: str, directory: Path) -> list[int]:
        count = 4 if code is TREE else 1
        process = subprocess.Popen([sys.executable, "-S", "-c", code], cwd=directory, stdout=subprocess.PIPE)
        started.append((process, directory))
        assert process.stdout is not None
        return [int(process.stdout.readline()) for _ in range(count)]

    yield begin
    for process, directory in started:
        for _ in range(100):
            left = processes_below(directory)
            for pid in left:
                _kill(pid)
            if not left:
                break
            time.sleep(0.01)
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _acts(pid: int) -> bool:
    """Whether the process can still do anything."""
    return not fencing._kill_pending(pid)


async def test_a_whole_tree_that_ignores_every_gentle_signal(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pids = start(TREE, tmp_path / "data")
    assert all(_acts(pid) for pid in pids) and len(set(pids)) == 4
    assert await fence(tmp_path) >= 4
    assert not any(_acts(pid) for pid in pids)


async def test_a_frozen_tree_never_runs_again(start: Start, tmp_path: Path) -> None:
    pids = start(TREE, tmp_path)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert await fence(tmp_path) >= 4
    for pid in pids:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue
    assert not any(_acts(pid) for pid in pids)


async def test_what_is_being_born_meanwhile_is_caught_too(start: Start, tmp_path: Path) -> None:
    start(FORKS, tmp_path)
    await asyncio.sleep(0.1)
    assert await fence(tmp_path) >= 2
    await asyncio.sleep(0.1)
    assert not any(_acts(pid) for pid in processes_below(tmp_path))


async def test_a_directory_that_was_deleted_under_it_hides_nobody(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "volume" / "data"
    data.mkdir(parents=True)
    (pid, *_) = start(TREE, data)
    shutil.rmtree(tmp_path / "volume")
    assert await fence(tmp_path / "volume") >= 4
    assert not _acts(pid)


async def test_neighbours_live_on(start: Start, tmp_path: Path) -> None:
    for name in ("node-1", "node-10"):
        (tmp_path / name).mkdir()
    mine, others = start(TREE, tmp_path / "node-1"), start(TREE, tmp_path / "node-10")
    await fence(tmp_path / "node-1")
    assert not any(_acts(pid) for pid in mine) and all(_acts(pid) for pid in others)


async def test_a_place_reached_through_a_link_is_the_same_place(start: Start, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    pids = start(TREE, tmp_path / "real")
    await fence(tmp_path / "link")
    assert not any(_acts(pid) for pid in pids)


async def test_nobody_to_fence_is_quick(tmp_path: Path) -> None:
    assert await fence(tmp_path) == 0
    assert await fence(tmp_path / "not there") == 0


async def test_what_cannot_be_killed_is_told(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pid, *_) = start(TREE, tmp_path)
    monkeypatch.setattr(fencing, "FENCE_TIMEOUT_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda _pid, _signal: None)
        with pytest.raises(Transient, match="cannot be killed"):
            await fence(tmp_path)
    assert _acts(pid)
