"""A recovering engine gets what it asks for, in the order it asks, and damage is never taken for the end."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql import log_server
from mainstay.engines.postgresql.configuration import _fetch_script
from mainstay.engines.postgresql.log_server import AHEAD, FETCHES_MAX, LogServer
from mainstay.engines.postgresql.wal import SEGMENT_BYTES, segment_name, whole
from mainstay.host.processes import User
from mainstay.model.errors import Permanent, Transient

NAMES = [segment_name(1, number) for number in range(1, 9)]


class Node:
    """A node's places, and its engine's fetch command run as the engine runs it."""

    def __init__(self, root: Path, fetch: Callable[[str], bytes | None]) -> None:
        self.files = NodeFiles(root=root, sockets=root / "sockets")
        self.files.data.mkdir(parents=True)
        self.script = root / "fetch-log"
        self.script.write_text(_fetch_script(self.files))
        self.server = LogServer(self.files.restoring, User("me"), fetch)

    async def ask(self, name: str) -> int:
        argv = ["/bin/sh", str(self.script), name, "wanted"]
        done = await asyncio.to_thread(subprocess.run, argv, cwd=self.files.data, timeout=20, check=False)
        return done.returncode

    @property
    def got(self) -> bytes:
        return (self.files.data / "wanted").read_bytes()


@asynccontextmanager
async def serving(root: Path, fetch: Callable[[str], bytes | None]) -> AsyncIterator[Node]:
    node = Node(root, fetch)
    task = asyncio.create_task(node.server.run())
    try:
        while not node.files.restoring.exists():
            await asyncio.sleep(0.01)
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        node.server.remove()


async def test_segments_come_one_after_the_other_and_the_end_is_the_end(tmp_path: Path) -> None:
    archive = {name: name.encode().ljust(SEGMENT_BYTES, b"x") for name in NAMES}
    asked: list[str] = []

    def fetch(name: str) -> bytes | None:
        asked.append(name)
        return archive.get(name)

    async with serving(tmp_path / "a 'strange' place", fetch) as node:
        for name in NAMES:
            assert await node.ask(name) == 0
            assert node.got == archive[name]
            assert node.server.lacking == "", "every one is whole"
        assert await node.ask("00000002.history") == 1, "the archive has no such file"
        assert await node.ask(segment_name(1, 9)) == 1
        assert [asked.count(name) for name in NAMES] == [1] * len(NAMES), "laid ready before they were asked for"
        assert len(asked) <= len(NAMES) + 2 + 1 + AHEAD, "nothing is looked for far beyond the end"
        assert await node.ask(NAMES[2]) == 0 and node.got == archive[NAMES[2]], "asked for once more"
        assert node.server.failure == ""
    assert not node.files.restoring.exists()


async def test_who_asks_before_anybody_serves_waits(tmp_path: Path) -> None:
    """The engine is faster than its agent, which is another process."""
    node = Node(tmp_path, lambda name: b"4" if name == "00000004.history" else None)
    asking = [asyncio.create_task(node.ask(name)) for name in ("00000004.history", NAMES[0])]
    await asyncio.sleep(0.3)
    assert not any(one.done() for one in asking), "1 would end the recovery quietly, 255 for good"
    serving = asyncio.create_task(node.server.run())
    assert await asyncio.gather(*asking) == [0, 1]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_what_was_asked_of_a_server_that_went_is_asked_of_the_next(tmp_path: Path) -> None:
    node = Node(tmp_path, lambda _name: None)
    node.files.restoring.mkdir()
    asking = asyncio.create_task(node.ask(NAMES[0]))
    while not (node.files.restoring / f"{NAMES[0]}.wanted").exists():
        await asyncio.sleep(0.005)
    node.server.remove()
    await asyncio.sleep(0.3)
    assert not asking.done()
    serving = asyncio.create_task(LogServer(node.files.restoring, User("me"), lambda _name: None).run())
    assert await asking == 1
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_what_is_being_put_there_at_the_end_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled: it goes on when nobody waits for it any more."""
    reached, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def slow(content: bytes) -> bytes:
        reached.set()
        go_on.wait(10)
        over.set()
        return whole(content)

    monkeypatch.setattr(log_server, "whole", slow)
    async with serving(tmp_path, lambda name: name.encode()) as node:
        (node.files.restoring / f"{NAMES[0]}.wanted").touch()
        await asyncio.to_thread(reached.wait, 10)
    node.files.restoring.mkdir()  # a removal that is under way finds what comes after its look
    go_on.set()
    await asyncio.to_thread(over.wait, 10)
    await asyncio.sleep(0.1)
    assert not list(node.files.restoring.iterdir())


async def test_the_same_file_can_be_asked_for_twice_in_a_row(tmp_path: Path) -> None:
    async with serving(tmp_path, lambda name: b"4" if name == "00000004.history" else None) as node:
        for _ in range(20):
            assert await node.ask("00000004.history") == 0
            assert await node.ask("00000005.history") == 1


async def test_damage_ends_the_recovery_and_is_told(tmp_path: Path) -> None:
    def fetch(name: str) -> bytes | None:
        raise Permanent(f"{name} is damaged")

    async with serving(tmp_path, fetch) as node:
        assert await node.ask(NAMES[0]) > 125, "PostgreSQL takes this for an end of the recovery, not of the log"
        assert NAMES[0] in node.server.failure


async def test_a_storage_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    tries: list[str] = []

    def fetch(name: str) -> bytes | None:
        if name != NAMES[0]:
            return None  # what is looked for ahead
        tries.append(name)
        if len(tries) < 3:
            raise Transient("away", retry_after_s=0.01)
        return b"here"

    async with serving(tmp_path, fetch) as node:
        assert await node.ask(NAMES[0]) == 0 and node.got == b"here".ljust(SEGMENT_BYTES, b"\0")
        assert node.server.lacking == f"4 bytes only of segment {NAMES[0]}"


async def test_the_same_file_asked_for_again_at_once_is_answered_again(tmp_path: Path) -> None:
    """As at the end of a recovery; nothing is awaited between, so that the server sees no moment without a request."""

    async with serving(tmp_path, lambda _name: None) as node:
        directory = node.files.restoring
        for _ in range(3):
            (directory / f"{NAMES[0]}.wanted").touch()
            async with asyncio.timeout(5):
                while not (directory / f"{NAMES[0]}.absent").exists():
                    await asyncio.sleep(0.005)
            (directory / f"{NAMES[0]}.wanted").unlink()
            (directory / f"{NAMES[0]}.absent").unlink()
        assert node.server.lacking == f"no segment {NAMES[0]}"


async def test_files_ahead_are_fetched_side_by_side_and_one_that_fails_is_told_when_it_is_wanted(
    tmp_path: Path,
) -> None:
    together = most = 0
    lock = threading.Lock()

    def fetch(name: str) -> bytes | None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.05)
        with lock:
            together -= 1
        if name == NAMES[3]:
            raise Permanent(f"{name} is damaged")
        return name.encode()

    async with serving(tmp_path, fetch) as node:
        for name in NAMES[:3]:
            assert await node.ask(name) == 0 and node.got.startswith(name.encode())
        assert node.server.failure == "", "nobody has asked for it yet"
        assert await node.ask(NAMES[3]) > 125 and NAMES[3] in node.server.failure
    assert 1 < most <= FETCHES_MAX + 1
