"""Peers and places for the tests of the endpoint process: real sockets on loopback addresses of their own."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest

from harness.pumps import FORMS, RunningPump
from mainstay.model.route import Route

_HOSTS = itertools.count(10)
TIMEOUT_S = 10.0


@pytest.fixture(params=FORMS)
def rig(request: pytest.FixtureRequest) -> Iterator[RunningPump]:
    """A pump, as a thread and as a process."""
    running = RunningPump(request.param)
    yield running
    running.stop()


class EchoEngine:
    """Answers every line with its name and the line; remembers under which address its clients came."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clients: list[str] = []
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        self._server = await asyncio.start_server(self._serve, address, port)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def behind(self, route: Route, address: str = "127.0.0.1", **members: Any) -> Route:
        """Starts; the route with this engine as its target, and with these members."""
        host, port = await self.start(address)
        return msgspec.structs.replace(route, target_address=host, target_port=port, **members)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()

    def say(self, text: str) -> None:
        """Without having been asked, to every client."""
        for writer in self._writers:
            writer.write(text.encode() + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer.get_extra_info("peername")[0])
        self._writers.append(writer)
        try:
            while line := await reader.readline():
                writer.write(self.name.encode() + b":" + line)
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def engines() -> AsyncIterator[Callable[[str], EchoEngine]]:
    """Makes engines that end with the test."""
    made: list[EchoEngine] = []

    def make(name: str) -> EchoEngine:
        made.append(EchoEngine(name))
        return made[-1]

    yield make
    for engine in made:
        await engine.stop()


@pytest.fixture
def route() -> Route:
    """A route without a target on an address and port that nobody else uses."""
    address = f"127.65.{next(_HOSTS) % 250 + 1}.1"
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    return Route(endpoint_id=f"db-{port}", address=address, port=port, epoch=1, admits=("127.0.0.0/8",))


class Client:
    """A client of an endpoint, from a chosen source address."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, text: str = "hello") -> str:
        self.writer.write(text.encode() + b"\n")
        async with asyncio.timeout(TIMEOUT_S):
            return (await self.reader.readline()).decode().strip()

    async def ended(self) -> bool:
        """Whether the connection ends, by reset or end of stream, without another byte."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """Connects clients that are closed with the test."""
    writers: list[asyncio.StreamWriter] = []

    async def connect_to(route: Route, source: str = "127.0.0.1") -> Client:
        reader, writer = await asyncio.open_connection(route.address, route.port, local_addr=(source, 0))
        writers.append(writer)
        return Client(reader, writer)

    yield connect_to
    for writer in writers:
        writer.close()
