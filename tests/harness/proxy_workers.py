"""Workers that share a budget, in one process: real targets, real channels, real sockets to an engine that counts."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from harness.proxy_parts import Transport
from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.proxy.budget import RESERVED_CONNECTIONS
from mainstay.proxy.channel import Channel, Ended, Hello, Holds, Knows, Message, Needs, Opened, Settled
from mainstay.proxy.lessee import Lessee
from mainstay.proxy.lessor import Lessor
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.session import ClientSession
from mainstay.proxy.target import Database, Target

PROXY = "prx-1"
ASK = wire.query(b"SELECT 1")
FOR_EVER = wire.query(b"for ever")
"""Answered when it is cancelled, or woken."""

_CANCEL = 80877102


class Engine:
    """Enough of PostgreSQL to log in and to answer; how many connections it has, and had at most, it knows itself."""

    def __init__(self, path: str, *, limit: int, answers_in_s: float, ends_in_s: float) -> None:
        self.path = path
        self.limit = limit
        self.open = 0
        self.most = 0
        self.cancelled: list[int] = []
        self._answers_in_s = answers_in_s
        self._ends_in_s = ends_in_s
        self._numbers = itertools.count(1)
        self._sleeping: dict[int, asyncio.Event] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_unix_server(self._serve, self.path, backlog=512)

    async def stop(self) -> None:
        """Listens no more; every session sees its client's end."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.sleep(0.01)

    @property
    def busy(self) -> int:
        """How many connections are at work."""
        return len(self._sleeping)

    def wake(self) -> None:
        """Everything that is under way is done."""
        for woken in self._sleeping.values():
            woken.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        counts = False
        try:
            first = await reader.readexactly(8)
            rest = await reader.readexactly(int.from_bytes(first[:4], "big") - 8)
            if int.from_bytes(first[4:], "big") == _CANCEL:  # that is no session
                self._cancel(int.from_bytes(rest[:4], "big"))
            else:
                counts, self.open = True, self.open + 1
                self.most = max(self.most, self.open)
                with suppress(asyncio.IncompleteReadError, ConnectionError):
                    await self._session(reader, writer)
                await asyncio.sleep(random.random() * self._ends_in_s)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.open -= counts
            writer.close()
            self._tasks.discard(task)

    def _cancel(self, number: int) -> None:
        if number in self._sleeping:
            self.cancelled.append(number)
            self._sleeping[number].set()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        key = wire.backend_key_data(number, b"\0\0\0\1")
        writer.write(wire.authentication(0) + wire.parameter_status("server_version", "17") + key)
        writer.write(wire.ready_for_query(b"I"))
        while True:
            kind = await reader.readexactly(1)
            body = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
            if kind == b"X":
                return
            await self._answer(number, writer, body)

    async def _answer(self, number: int, writer: asyncio.StreamWriter, body: bytes) -> None:
        row = b""
        if b"max_connections" in body:
            text = str(self.limit).encode()
            row = wire.message(b"D", b"\0\1" + len(text).to_bytes(4, "big") + text)
        else:
            woken = self._sleeping[number] = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(600 if b"for ever" in body else random.random() * self._answers_in_s):
                    await woken.wait()
            del self._sleeping[number]
        writer.write(row + wire.message(b"C", b"SELECT 0\0") + wire.ready_for_query(b"I"))


class Office:
    """What the coordinator does of leases, for one proxy."""

    def __init__(self, path: Path, engine: Engine, numbers: Any, *, known: bool) -> None:
        self.lessor = Lessor(PROXY, self._tell, numbers)
        self.lessor.known = known
        self._waits_for = 0
        self._channels: dict[int, Channel] = {}
        self._all: list[Channel] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.setblocking(False)
        path.unlink(missing_ok=True)
        self._listening.bind(str(path))
        self._listening.listen(16)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listening.fileno(), self._arrived)
        self.lessor.moved(engine.path, 1)
        self._looking = asyncio.create_task(self._look())

    def expect(self, count: int) -> None:
        """Grants nothing before so many workers have said what they hold."""
        self._waits_for = count

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.lessor.look()

    def _arrived(self) -> None:
        connection, _address = self._listening.accept()
        number = 0

        def heard(message: Message, carried: socket.socket | None) -> None:
            nonlocal number
            match message:
                case Hello():
                    number = message.worker
                    self._channels[number] = channel
                    self.lessor.joined(number)
                case Holds() if carried is not None:
                    self.lessor.adopt(number, message, carried)
                case Settled():
                    self.lessor.settled(number)
                    self._waits_for -= 1
                    if self._waits_for <= 0 and not self.lessor.known:
                        self.lessor.known = True
                        self.lessor.plan()
                case Needs():
                    self.lessor.needs(number, message)
                case Knows():
                    self.lessor.known_limit(message)
                case Opened():
                    self.lessor.opened(number, message)
                case Ended():
                    self.lessor.ended(number, message)

        channel = Channel(connection, heard, lambda: None)
        self._all.append(channel)

    def _tell(self, worker: int, message: Message, carried: socket.socket | None) -> None:
        if worker in self._channels:
            self._channels[worker].send(message, carried)

    def died(self, worker: int) -> None:
        """The worker's process has ended."""
        channel = self._channels.pop(worker, None)
        if channel is not None:
            channel.close()
        self.lessor.died(worker)

    def kill(self) -> None:
        """As by kill -9: every descriptor of it is closed, nobody is told anything."""
        self._looking.cancel()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening.fileno())
        self._listening.close()
        for channel in self._all:
            channel.close()
        for one in list(self.lessor._open.values()):
            loop.remove_reader(one.socket.fileno())
            one.socket.close()
        self.lessor._open.clear()


class WorkerInMemory:
    """One worker's part of the proxy."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        loop = asyncio.get_running_loop()
        self.target = Target(Database(), Metrics(), loop.time)
        self.sessions: list[ClientSession] = []
        self.lessee = Lessee(path, number, lambda: len(self.sessions))
        self.lessee.share(self.target, PROXY)
        self._tasks = [asyncio.create_task(self.lessee.keep()), asyncio.create_task(self._tidy())]

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.target.expire()
            self.target.tidy()
            self.lessee.tell()

    def session(self, user: str = "app") -> ClientSession:
        """A client that is let in."""
        pool = self.target.pool(ProxyUser(username=user, password="secret"), "postgres")
        session = ClientSession(pool, Transport(), {}, len(self.sessions) + 1, b"secr", "prx-1")
        self.sessions.append(session)
        return session

    def kill(self) -> None:
        """As by kill -9: every descriptor of it is closed, whatever is under way."""
        for task in (*self._tasks, *self.target.tasks):
            task.cancel()
        channel = self.lessee._channel
        if channel is not None:
            channel.close()
        share = self.lessee._shares[PROXY]
        for connection in list(share._users):
            share._users.pop(connection)
            connection.transport.abort()
        for held in share.held.values():
            held.socket.close()
        share.held.clear()
        self.target.lender = None
        self.target.opener.connector = _nothing
        self.target.waiters.clear()


async def _nothing(_pool: Any) -> ServerConnection:
    raise OSError("the worker is dead")


class Client:
    """Asks again and again, with pauses."""

    def __init__(self, worker: WorkerInMemory, user: str = "app") -> None:
        self.worker = worker
        self.session = worker.session(user)
        self.answers = 0
        self.errors = 0
        self.longest_s = 0.0

    async def run(self, requests: int, pause_s: float) -> None:
        """So many requests, each answered before the next."""
        loop = asyncio.get_running_loop()
        for _ in range(requests):
            started = loop.time()
            data = await self.ask()
            self.longest_s = max(self.longest_s, loop.time() - started)
            self.errors += b"Timed-out" in data
            self.answers += 1
            await asyncio.sleep(random.random() * pause_s)

    async def ask(self, request: bytes = ASK) -> bytes:
        """One request; what was answered."""
        transport = cast(Transport, self.session.transport)
        self.session.data_received(request)
        while not transport.written.endswith(wire.ready_for_query(b"I")):
            await asyncio.sleep(0.002)
        return transport.taken()


class Host:
    """An engine, an office, and workers."""

    def __init__(self, *, budget: int, workers: int, answers_in_s: float = 0.01, ends_in_s: float = 0.02) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ms"))
        self.leases = self.directory / "leases.sock"
        self.numbers = itertools.count(1)
        self.budget = budget
        limit = budget + RESERVED_CONNECTIONS
        path = str(self.directory / "engine.sock")
        self.engine = Engine(path, limit=limit, answers_in_s=answers_in_s, ends_in_s=ends_in_s)
        self._count = workers
        self.workers: dict[int, WorkerInMemory] = {}
        self.office: Office | None = None

    async def __aenter__(self) -> Host:
        await self.engine.start()
        self.office = Office(self.leases, self.engine, self.numbers, known=True)
        for number in range(1, self._count + 1):
            self.workers[number] = WorkerInMemory(self.leases, number)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.kill()
        if self.office is not None:
            self.office.kill()
        await self.engine.stop()
        for path in self.directory.iterdir():
            os.unlink(path)
        self.directory.rmdir()

    def kill(self, number: int) -> None:
        """A worker, and its clients with it."""
        self.workers.pop(number).kill()
        if self.office is not None:
            self.office.died(number)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Waits for it."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)
