"""Shims with real processes: an exit is known at once, nothing is left behind, and the shim outlives its agent."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from mainstay.host.shims import Launch, SystemShims
from mainstay.model.errors import Transient


class Exits:
    """Collects what the shims report."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None]] = []
        self.changed = asyncio.Event()

    def __call__(self, node_id: str, exit_code: int | None) -> None:
        self.seen.append((node_id, exit_code))
        self.changed.set()

    async def wait(self) -> tuple[str, int | None]:
        async with asyncio.timeout(5):
            await self.changed.wait()
        return self.seen[-1]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except FileNotFoundError:
        return False


def launch(tmp_path: Path, *argv: str) -> Launch:
    return Launch(argv=argv, cwd=tmp_path, output=tmp_path / "output", env={"PATH": "/usr/bin:/bin"}, tag={"token": 7})


async def test_an_exit_is_reported_with_its_status(tmp_path: Path) -> None:
    exits = Exits()
    shims = SystemShims(tmp_path, exits)
    process = await shims.launch("n1", launch(tmp_path, "/bin/sleep", "60"))
    assert alive(process.pid) and process.tag == {"token": 7}
    started = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    assert await exits.wait() == ("n1", -signal.SIGKILL)
    assert time.monotonic() - started < 1.0
    assert not (tmp_path / "n1.sock").exists()


async def test_orphans_of_the_engine_are_gone_before_its_end_is_told(tmp_path: Path) -> None:
    exits = Exits()
    shims = SystemShims(tmp_path, exits)
    script = "(trap '' TERM INT; sleep 300) & echo $! > child; exec sleep 300"
    process = await shims.launch("n1", launch(tmp_path, "/bin/sh", "-c", script))
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
        await asyncio.sleep(0.01)
    child = int((tmp_path / "child").read_text())
    os.kill(process.pid, signal.SIGKILL)
    await exits.wait()
    assert not alive(child)


async def test_a_new_agent_finds_the_running_engine_and_can_stop_it(tmp_path: Path) -> None:
    first = SystemShims(tmp_path, Exits())
    process = await first.launch("n1", launch(tmp_path, "/bin/sleep", "60"))
    exits = Exits()
    second = SystemShims(tmp_path, exits)
    adopted = await second.adopt("n1")
    assert adopted is not None and (adopted.pid, adopted.tag) == (process.pid, {"token": 7})
    second.signal("n1", signal.SIGTERM)
    assert await exits.wait() == ("n1", -signal.SIGTERM)


async def test_the_engine_does_not_outlive_its_shim(tmp_path: Path) -> None:
    exits = Exits()
    shims = SystemShims(tmp_path, exits)
    process = await shims.launch("n1", launch(tmp_path, "/bin/sleep", "60"))
    shim_pid = int(Path(f"/proc/{process.pid}/stat").read_text().split(")")[1].split()[1])
    os.kill(shim_pid, signal.SIGKILL)
    await exits.wait()
    for _ in range(100):
        if not alive(process.pid):
            break
        await asyncio.sleep(0.02)
    assert not alive(process.pid)
    assert await SystemShims(tmp_path, Exits()).adopt("n1") is None


async def test_a_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="ended at once"):
        await SystemShims(tmp_path, Exits()).launch("n1", launch(tmp_path, "/nonexistent/engine"))
    assert "cannot start /nonexistent/engine" in (tmp_path / "output").read_text()
