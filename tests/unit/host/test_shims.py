"""Shims with real processes: an exit is known at once, nothing is left behind, and the shim outlives its agent."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from mainstay.host.shims import Launch, SystemShims
from mainstay.model.errors import Transient
from mainstay.shim.__main__ import LANDLOCK_LEAST, landlock_version


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


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
def quit_of_the_parent(request: pytest.FixtureRequest) -> Iterator[None]:
    """A shell ignores SIGQUIT in what it starts in the background, and that is inherited."""
    before = signal.signal(signal.SIGQUIT, request.param)
    yield
    signal.signal(signal.SIGQUIT, before)


@pytest.mark.usefixtures("quit_of_the_parent")
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


async def test_engines_that_run_take_no_threads_from_others(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    exits = Exits()
    shims = SystemShims(tmp_path, exits)
    for name in ("n1", "n2"):
        await shims.launch(name, launch(tmp_path, "/bin/sleep", "60"))
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(alive, os.getpid())
    for name in ("n1", "n2"):
        exits.changed.clear()
        shims.signal(name, signal.SIGKILL)
        await exits.wait()


async def test_looking_for_a_shim_never_removes_the_socket_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "n1.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    stale = path.stat().st_ino
    shims = SystemShims(tmp_path, Exits())
    assert await shims.adopt("n1") is None
    assert path.stat().st_ino == stale, "by now it could be another one's"
    process = await shims.launch("n1", launch(tmp_path, "/bin/sleep", "60"))
    found = await SystemShims(tmp_path, Exits()).adopt("n1")
    assert found is not None and found.pid == process.pid
    os.kill(process.pid, signal.SIGKILL)


async def test_a_shim_that_ends_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    exits = Exits()
    shims = SystemShims(tmp_path, exits)
    process = await shims.launch("n1", launch(tmp_path, "/bin/sleep", "60"))
    path = tmp_path / "n1.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        os.kill(process.pid, signal.SIGKILL)
        await exits.wait()
        assert path.exists()


@pytest.mark.skipif(landlock_version(ctypes.CDLL(None)) < LANDLOCK_LEAST, reason="the kernel has no Landlock")
async def test_an_engine_writes_in_its_own_places_only(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    for directory in (own, own / "deep", foreign):
        directory.mkdir()
    (own / "file").write_text("before")
    (foreign / "file").write_text("before")
    attempts = (
        "echo x > own/made; echo x >> own/file; mv own/made own/deep/moved; ln -s file own/link; rm own/link",
        "echo x > foreign/made",
        "echo x >> foreign/file",
        ": > foreign/file",
        "mkdir foreign/made",
        "rm foreign/file",
        "mv foreign/file own/stolen",
        "mv own/file foreign/given",
        "ln foreign/file own/linked",
        "(echo x > foreign/made)",
        "cat foreign/file > own/read",
        "echo x > /dev/null",
    )
    script = "; ".join(f"( {attempt} ) && echo {number} >> own/done" for number, attempt in enumerate(attempts))
    exits = Exits()
    wanted = msgspec.structs.replace(
        launch(tmp_path, "/bin/sh", "-c", f"sleep 0.2; {script}"), writable=(own, Path("/dev/null"))
    )
    await SystemShims(tmp_path, exits).launch("n1", wanted)
    await exits.wait()
    assert (own / "done").read_text().split() == ["0", "10", "11"], (tmp_path / "output").read_text()
    assert [one.name for one in foreign.iterdir()] == ["file"] and (foreign / "file").read_text() == "before"
    assert (own / "deep/moved").exists() and (own / "read").read_text() == "before"


async def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    wanted = msgspec.structs.replace(launch(tmp_path, "/bin/true"), writable=(tmp_path / "missing",))
    if landlock_version(ctypes.CDLL(None)) < LANDLOCK_LEAST:
        pytest.skip("the kernel has no Landlock")
    with pytest.raises(Transient, match="ended at once"):
        await SystemShims(tmp_path, Exits()).launch("n1", wanted)
    assert f"{tmp_path}/missing" in (tmp_path / "output").read_text()
