"""The log is in the repository before anything is promised; a hole is told; it goes on where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mainstay.agent.archiver import PIECES_MAX, Archiver
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.engines.backups import LogLook, LogPiece, LogPlace
from mainstay.engines.postgresql.backups import PostgresqlBackups
from mainstay.engines.postgresql.wal import SEGMENT_BYTES, segment_name
from mainstay.host.clock import SystemClock
from mainstay.host.randomness import SeededRandomness
from mainstay.model.errors import Transient


class Source:
    """A log of the test's making: `grow` adds bytes to the newest segment, `switch` begins another one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number, self.end = 1, 0
        self.moment = 100.5
        self.released: list[LogPlace] = []
        self.missing = ""
        self.away = False
        self.closed = self.gave_up = False

    def path(self, number: int) -> Path:
        return self.directory / segment_name(1, number)

    def grow(self, data: bytes) -> None:
        with self.path(self.number).open("ab") as file:
            file.write(data)
        self.end += len(data)
        self.moment += 1.0

    def switch(self) -> None:
        self.grow(b"\0" * (SEGMENT_BYTES - self.end))
        self.number, self.end = self.number + 1, 0

    async def resume(self, archive: LogArchive, after: LogPlace) -> None:
        """What is stored already is known by its place alone."""

    async def look(self, after: LogPlace | None) -> LogLook:
        if self.away:
            raise Transient("the engine does not answer")
        pieces = []
        first = 1 if after is None else int(after.segment, 16) & 0xFF
        for number in range(first, self.number + 1):
            name = segment_name(1, number)
            start = after.offset if after is not None and after.segment == name else 0
            end = self.end if number == self.number else SEGMENT_BYTES
            if start < end and not self.missing:
                pieces.append(
                    LogPiece(timeline="00000001", segment=name, path=self.path(number), start=start, end=end,
                             last=end == SEGMENT_BYTES)
                )  # fmt: skip
        missing, self.missing = self.missing, ""
        return LogLook(moment=self.moment, position="0/0", timeline="00000001", pieces=tuple(pieces), missing=missing)

    async def release(self, until: LogPlace) -> None:
        self.released.append(until)

    async def give_up(self) -> None:
        self.gave_up = True

    async def close(self) -> None:
        self.closed = True


class World:
    def __init__(self, directory: Path) -> None:
        self.objects = MemoryObjects()
        self.archive = LogArchive(Repository(self.objects, "a/", b"k" * 32, SeededRandomness(1)))
        self.source = Source(directory)
        self.directory = directory
        self.changes = 0

    def archiver(self) -> Archiver:
        made = Archiver(
            "node-1", self.source, lambda: self.archive, PostgresqlBackups(), self.directory, SystemClock(), self.note
        )
        made._archive = self.archive  # `run` opens it; tests call what `run` calls
        return made

    def note(self) -> None:
        self.changes += 1

    def read(self, number: int) -> bytes | None:
        return self.archive.read_segment(Segment("00000001", number, segment_name(1, number)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_what_is_promised_is_stored_and_what_is_stored_is_released(world: World) -> None:
    archiver = world.archiver()
    world.source.grow(b"one")
    await archiver._ship()
    assert world.read(1) == b"one"
    assert archiver.status.latest_restorable_at == 101.0, "a commit after it is in the log"
    assert world.source.released[-1].offset == 3 and world.changes == 1
    world.source.grow(b"two")
    world.source.switch()
    world.source.grow(b"three")
    await archiver._ship()
    first = world.read(1)
    assert first is not None and first.startswith(b"onetwo\0") and len(first) == SEGMENT_BYTES
    assert world.read(2) == b"three"
    left = [key for key, _ in world.objects.list("a/log/00000001/") if f"{1:016x}" in key]
    assert len(left) == 1 and left[0].endswith(".whole")


async def test_a_successor_goes_on_where_the_repository_ends(world: World) -> None:
    world.source.grow(b"one")
    await world.archiver()._ship()
    world.source.grow(b"two")
    successor = world.archiver()
    successor._after = successor._last_place()
    await successor._ship()
    assert world.read(1) == b"onetwo"
    assert len(world.objects.list("a/log/")) == 2, "only what was new"


async def test_a_quiet_log_is_not_thousands_of_objects(world: World) -> None:
    archiver = world.archiver()
    for number in range(3 * PIECES_MAX):
        world.source.grow(b"%3d" % number)
        await archiver._ship()
    assert world.read(1) == b"".join(b"%3d" % number for number in range(3 * PIECES_MAX))
    assert len(world.objects.list("a/log/")) <= PIECES_MAX + 1


async def test_a_hole_is_told_and_never_passed_over(world: World) -> None:
    archiver = world.archiver()
    world.source.grow(b"one")
    world.source.missing = segment_name(1, 1)
    await archiver._ship()
    assert archiver.status.gap_at > 0.0 and segment_name(1, 1) in archiver.status.failure
    assert archiver.status.latest_restorable_at == 0.0
    await archiver._ship()
    assert archiver.status.gap_at > 0.0 and archiver.status.failure == "", "it goes on, and the hole stays told"


async def test_an_engine_that_is_away_is_told_and_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainstay.agent.archiver.RETRY_S", (0.01,))
    monkeypatch.setattr("mainstay.agent.archiver.BUSY_INTERVAL_S", 0.01)
    archiver = world.archiver()
    world.source.away = True
    task = asyncio.create_task(archiver.run())
    while not archiver.status.failure:
        await asyncio.sleep(0.01)
    world.source.away = False
    world.source.grow(b"one")
    while archiver.status.failure:
        await asyncio.sleep(0.01)
    assert world.read(1) == b"one"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.source.closed


async def test_log_that_fills_the_disk_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    archiver = world.archiver()
    monkeypatch.setattr("mainstay.agent.archiver.BACKLOG_BYTES_MAX", -1)
    monkeypatch.setattr(archiver, "_full", lambda: True)
    world.source.grow(b"one")
    await archiver._ship()
    assert world.source.gave_up and archiver.status.gap_at > 0.0


async def test_the_last_of_the_log_is_stored_before_it_ends(world: World) -> None:
    archiver = world.archiver()
    task = asyncio.create_task(archiver.run())
    while not world.changes:
        await asyncio.sleep(0.01)
    world.source.grow(b"the last")
    async with asyncio.timeout(5.0):
        await archiver.finish()
        await task
    assert (world.read(1) or b"").endswith(b"the last") and world.source.closed
