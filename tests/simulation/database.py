"""A simulated database server: write-ahead log, flush, streaming, synchronous commit, promotion, freezing, crashes.

It is as unkind as PostgreSQL: a commit is on the primary's own disk before it waits for the standby; that commits wait
takes effect some time after the configuration was reloaded, when another process has raised a flag; what waits at a
crash is there after recovery; a frozen server goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

from simulation.loop import unowned

FLUSH_S = 0.002
RETRY_S = 0.3
STATUS_INTERVAL_S = 1.0
RECEIVER_TIMEOUT_S = 10.0
SENDER_TIMEOUT_S = 60.0


class Entry(NamedTuple):
    """One commit in a write-ahead log."""

    timeline: int
    value: int


class Disk:
    """One data directory: what survives a crash is `wal[:flushed]`, and perhaps some of what follows."""

    def __init__(self, wal: list[Entry] | None = None, timeline: int = 1) -> None:
        self.wal: list[Entry] = list(wal or [])
        self.flushed = len(self.wal)
        self.timeline = timeline

    def copy(self) -> Disk:
        """What a base backup taken now holds."""
        return Disk(self.wal[: self.flushed], self.timeline)

    def holds(self, value: int) -> bool:
        """Whether this commit is safe here."""
        return any(entry.value == value for entry in self.wal[: self.flushed])

    def crash(self, draw: random.Random) -> None:
        """Some of what was not flushed may have reached the disk all the same."""
        del self.wal[draw.randint(self.flushed, len(self.wal)) :]
        self.flushed = len(self.wal)

    def continues(self, other: Disk) -> bool:
        """Whether `other`'s history begins with all of this one's."""
        return self.wal[: self.flushed] == other.wal[: self.flushed] and self.flushed <= other.flushed


class Gone(Exception):
    """The session ended: the server is gone, or never let it in."""


class Weather:
    """How long things take. The calm one takes no time, and always the same."""

    def __init__(self, seed: int | None = None) -> None:
        self.draw = random.Random(seed or 0)
        self.wild = seed is not None
        self.slowness = 1.0
        self.link_cut = False

    def s(self, usual_s: float, at_most_s: float) -> float:
        """Mostly about `usual_s`, now and then as long as `at_most_s`."""
        if not self.wild:
            return 0.0
        if self.draw.random() < 0.1:
            return self.draw.uniform(usual_s, at_most_s) * self.slowness
        return self.draw.uniform(0.2, 1.5) * usual_s * self.slowness


class Server:
    """What runs inside one engine process. `settings` is the text of its configuration file as it was read last."""

    def __init__(self, node_id: str, disk: Disk, settings: str, weather: Weather, *, follows: bool) -> None:
        self.node_id = node_id
        self.disk = disk
        self.settings = settings
        self.follows = follows
        self.ended = False
        self.open = False
        self.shutting_down = False
        self.broken_disk = False
        self.promotions = 0
        self.lives = 0
        self.waits_for = ""
        self.visible: list[int] = []
        self.followers: dict[str, float] = {}
        self.reports: dict[str, int] = {}
        self._weather = weather
        self._running = asyncio.Event()
        self._running.set()
        self._news = asyncio.Event()
        self._settings_read = 0
        self.settings_in_force = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}

    # The process

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Work of this process: it belongs to nobody else and ends with it."""
        task = asyncio.get_running_loop().create_task(self._until_gone(coroutine), context=unowned())
        self._tasks[task] = None

        def done(_task: asyncio.Task[None]) -> None:
            self._tasks.pop(_task, None)
            coroutine.close()  # if it never got a turn

        task.add_done_callback(done)

    async def _until_gone(self, coroutine: Coroutine[Any, Any, None]) -> None:
        with suppress(Gone):
            await coroutine

    @property
    def frozen(self) -> bool:
        return not self._running.is_set()

    def freeze(self) -> None:
        """SIGSTOP to everything of it."""
        self._running.clear()

    def thaw(self) -> None:
        """SIGCONT."""
        self._running.set()
        self.notify()

    def end(self) -> None:
        """Gone, at once."""
        self.ended, self.open = True, False
        self.disk.crash(self._weather.draw)
        self._running.set()
        self.notify()
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()

    async def turn(self) -> None:
        """Returns when this process can run; raises `Gone` when it never will again."""
        await self._running.wait()
        if self.ended:
            raise Gone

    def notify(self) -> None:
        """Wakes whatever waits for something in here to change."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self, timeout_s: float | None = None) -> None:
        """Until something changes, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

    # Configuration

    def read_settings(self, text: str) -> int:
        """The postmaster has read its files; what commits wait for follows when the checkpointer gets to it."""
        self.settings = text
        self._settings_read += 1
        if self._weather.wild:
            self.spawn(self._put_in_force(self._settings_read, text, self._weather.s(0.03, 2.0)))
        else:
            self._in_force(self._settings_read, text)
        return self._settings_read

    async def _put_in_force(self, number: int, text: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.turn()
        self._in_force(number, text)

    def _in_force(self, number: int, text: str) -> None:
        if number > self.settings_in_force:
            self.settings_in_force = number
            self.waits_for = json.loads(text).get("synchronous_standby", "")
            self.notify()

    @property
    def survives_backend_crash(self) -> bool:
        """Whether it starts over by itself, and shows what it finds, when one of its processes crashes."""
        return bool(json.loads(self.settings).get("restart_after_crash", True))

    # Life

    def recovered(self) -> None:
        """A server that leads has recovered: all that is in its log is there, acknowledged or not."""
        self.lives += 1  # no session of before goes on
        self.visible = [entry.value for entry in self.disk.wal]
        self.disk.flushed = len(self.disk.wal)
        self.open = True
        self.notify()

    async def commit(self, value: int) -> None:
        """Returns when the commit is acknowledged. Raises `Gone`."""
        await self.turn()
        if not self.open or self.follows:
            raise Gone
        life = self.lives
        self.disk.wal.append(Entry(self.disk.timeline, value))
        position = len(self.disk.wal)
        await asyncio.sleep(FLUSH_S)
        await self.turn()
        if life != self.lives:
            raise Gone
        self.disk.flushed = max(self.disk.flushed, position)
        self.notify()
        while self.waits_for and self.reports.get(self.waits_for, 0) < position:
            if self.shutting_down or life != self.lives:
                raise Gone
            await self.news()
            await self.turn()
        if not self.open or life != self.lives:
            raise Gone
        self.visible.append(value)

    async def hand_over(self) -> None:
        """A shutdown ends when the connected followers have everything."""
        self.shutting_down, self.open = True, False
        self.disk.flushed = len(self.disk.wal)
        self.notify()
        while any(self.reports.get(name, 0) < self.disk.flushed for name in self.followers):
            await self.news()
            await self.turn()

    def promoted(self) -> None:
        """What it has received is its history now; a new timeline begins."""
        self.disk.timeline += 1
        self.promotions += 1
        self.follows = False
        self.recovered()

    # Following

    async def follow(self, upstream_of: Any) -> None:
        """Receives from whoever `upstream_of()` finds, as long as it follows."""
        while self.follows:
            await self.turn()
            source: Server | None = upstream_of()
            if source is None or source.ended or source.frozen or self._weather.link_cut or not source.feeds(self):
                await asyncio.sleep(RETRY_S)
                continue
            source.followers[self.node_id] = asyncio.get_running_loop().time()
            source.reports[self.node_id] = self.disk.flushed
            source.notify()
            try:
                await self._receive(source, upstream_of)
            finally:
                source.followers.pop(self.node_id, None)
                source.notify()

    def feeds(self, follower: Server) -> bool:
        """Whether a follower with this data can follow here."""
        if self.follows or not (self.open or self.shutting_down):
            return False
        return follower.disk.continues(self.disk) and follower.disk.timeline <= self.disk.timeline

    async def _receive(self, source: Server, upstream_of: Any) -> None:
        heard_at = asyncio.get_running_loop().time()
        while self.follows and not source.ended and upstream_of() is source:
            now = asyncio.get_running_loop().time()
            silent = source.frozen or self._weather.link_cut
            if silent and now - heard_at > RECEIVER_TIMEOUT_S:
                return
            if silent:
                await asyncio.sleep(RETRY_S)
                await self.turn()
                continue
            heard_at = now
            begin, end = len(self.disk.wal), source.disk.flushed
            if end > begin:
                entries = source.disk.wal[begin:end]
                await asyncio.sleep(self._weather.s(0.003, 0.5))
                await self.turn()
                if self._weather.link_cut or source.ended or source.frozen:
                    continue
                self.disk.wal.extend(entries)
                await asyncio.sleep(FLUSH_S)
                await self.turn()
                self.disk.flushed = len(self.disk.wal)
                self.disk.timeline = source.disk.timeline
            if not self.follows or source.ended or self._weather.link_cut:
                continue
            source.followers[self.node_id] = asyncio.get_running_loop().time()
            source.reports[self.node_id] = self.disk.flushed
            source.notify()
            if source.disk.flushed <= len(self.disk.wal):
                await source.news(STATUS_INTERVAL_S)
                await self.turn()
