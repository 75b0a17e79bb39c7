"""The DNS server on real sockets: UDP, TCP, its limits, and dig where it is installed."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from mainstay.endpoint import limits
from mainstay.endpoint.dns import DnsServer
from mainstay.endpoint.names import Names
from mainstay.model.route import Route

ZONE = "mainstay.internal"
MYDB = f"mydb.abc123def456.us-west-2.rds.{ZONE}"
ROUTE = Route(endpoint_id="db-1", address="127.64.0.5", port=5432, epoch=1, name=MYDB)
TIMEOUT_S = 5.0
_HOSTS = itertools.count(1)

Place = tuple[str, int]
Serve = Callable[..., Any]


@pytest.fixture
def place() -> Place:
    """An address and port whose UDP and TCP sockets nobody uses."""
    address = f"127.66.{next(_HOSTS)}.1"
    with socket.create_server((address, 0)) as free:
        return address, free.getsockname()[1]


@pytest.fixture
async def serve(place: Place) -> AsyncIterator[Serve]:
    """Starts a server of one route; it ends with the test."""
    made: list[DnsServer] = []

    async def start(**options: Any) -> DnsServer:
        names = Names(ZONE, place[0])
        names.replace([ROUTE], serial=1)
        made.append(DnsServer(names, place, **options))
        await made[-1].start()
        return made[-1]

    yield start
    for server in made:
        await server.stop()


def over_udp(place: Place, query: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.sendto(query, place)
        answer, sender = client.recvfrom(4096)
        assert sender == place
        return answer


class Stream:
    """A client over TCP."""

    def __init__(self, place: Place) -> None:
        self._socket = socket.create_connection(place, timeout=TIMEOUT_S)
        self._file = self._socket.makefile("rb")

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def ask(self, query: bytes) -> bytes:
        self.send(len(query).to_bytes(2, "big") + query)
        return self.receive()

    def receive(self) -> bytes:
        return self._file.read(int.from_bytes(self._file.read(2), "big"))

    def ended(self) -> bool:
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()


def query(name: str = MYDB, kind: str = "A") -> bytes:
    return bytes(DNSRecord.question(name, kind).pack())


def addresses(answer: bytes) -> list[str]:
    return [str(one.rdata) for one in DNSRecord.parse(answer).rr if one.rtype == QTYPE.A]


async def test_udp_and_tcp_say_the_same(serve: Serve, place: Place) -> None:
    server = await serve()
    assert addresses(await asyncio.to_thread(over_udp, place, query())) == ["127.64.0.5"]

    def conversation() -> None:
        with Stream(place) as stream:
            assert addresses(stream.ask(query())) == ["127.64.0.5"]
            assert RCODE[DNSRecord.parse(stream.ask(query("example.com"))).header.rcode] == "REFUSED"
            whole = len(query()).to_bytes(2, "big") + query()
            stream.send(whole + whole[:10])  # pipelined, and the second one in pieces
            assert addresses(stream.receive()) == ["127.64.0.5"]
            stream.send(whole[10:])
            assert addresses(stream.receive()) == ["127.64.0.5"]

    await asyncio.to_thread(conversation)
    assert server.state() == {"address": place[0], "port": place[1], "unavailable": None, "answered": 5}


async def test_garbage_ends_a_stream_and_leaves_udp_at_work(serve: Serve, place: Place) -> None:
    await serve()

    def garbage() -> None:
        for content in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0", b"\0\5hello", b"\xff\xff" + b"x" * 100):
            with Stream(place) as stream:
                stream.send(content)
                assert stream.ended(), content
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for content in (b"", b"x", b"\x80" * 40):
                client.sendto(content, place)
        assert addresses(over_udp(place, query())) == ["127.64.0.5"]

    await asyncio.to_thread(garbage)


async def test_who_says_nothing_or_takes_nothing_is_closed(serve: Serve, place: Place) -> None:
    await serve(idle_s=0.2, queries_per_s=1e9)

    def silence() -> None:
        with Stream(place) as stream:
            assert stream.ended()
        with Stream(place) as stream:
            stream.send(b"\0\x20abc")
            assert stream.ended()

    await asyncio.to_thread(silence)

    def deafness() -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(60.0)  # megabytes of queries wait in the kernel's buffers, and each is answered first
            client.connect(place)
            whole = len(query()).to_bytes(2, "big") + query()
            with pytest.raises(ConnectionError):  # reset; it never read a byte
                for _ in range(10_000):
                    client.sendall(whole * 20)

    await asyncio.to_thread(deafness)


async def test_more_streams_than_allowed_are_closed_and_udp_goes_on(
    serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DNS_TCP_CONNECTIONS_MAX", 2)
    server = await serve()

    def crowd() -> None:
        with Stream(place) as one, Stream(place) as two:
            assert addresses(one.ask(query())) == addresses(two.ask(query())) == ["127.64.0.5"]
            with Stream(place) as three:
                assert three.ended()
            assert addresses(over_udp(place, query())) == ["127.64.0.5"]
            assert addresses(one.ask(query())) == ["127.64.0.5"]

    await asyncio.to_thread(crowd)
    assert server.state()["connections_full"] == 1

    def room_again() -> None:
        with Stream(place) as one, Stream(place) as two:
            assert addresses(one.ask(query())) == addresses(two.ask(query())) == ["127.64.0.5"]

    async with asyncio.timeout(TIMEOUT_S):  # until the server has seen the ends of the first two
        while server.open_streams:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(room_again)


async def test_a_flood_is_dropped_and_soon_forgotten(serve: Serve, place: Place) -> None:
    server = await serve(queries_per_s=50.0)

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(100):
                client.sendto(query(), place)

    await asyncio.to_thread(flood)
    await asyncio.sleep(0.2)
    assert server.state()["over_the_rate"] > 60
    assert addresses(await asyncio.to_thread(over_udp, place, query())) == ["127.64.0.5"]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_taken_place_is_told_and_served_once_it_is_free(
    serve: Serve, place: Place, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_INET, kind) as squatter:
        squatter.bind(place)
        if kind == socket.SOCK_STREAM:
            squatter.listen()
        server = await serve(retry_interval_s=0.05)
        assert "Address already in use" in server.state()["unavailable"]
        await asyncio.sleep(0.12)
        assert "Address already in use" in server.state()["unavailable"]
    async with asyncio.timeout(TIMEOUT_S):
        while server.state()["unavailable"] is not None:
            await asyncio.sleep(0.01)
    assert addresses(await asyncio.to_thread(over_udp, place, query())) == ["127.64.0.5"]


@pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig (package bind9-dnsutils)")
async def test_dig_is_content(serve: Serve, place: Place) -> None:
    await serve()

    def dig(*words: str) -> str:
        command = ["dig", f"@{place[0]}", "-p", str(place[1]), "+tries=1", "+time=5", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        assert "WARNING" not in done.stdout.replace("WARNING: recursion requested but not available", ""), done.stdout
        return done.stdout

    host = f"ip-127-64-0-5.compute.{ZONE}."
    for transport in ("+notcp", "+tcp"):
        short = await asyncio.to_thread(dig, "+short", transport, MYDB)
        assert short.split() == [host, "127.64.0.5"]
    missing = await asyncio.to_thread(dig, f"none.{ZONE}")
    assert "status: NXDOMAIN" in missing and "flags: qr aa rd;" in missing and "hostmaster" in missing
    assert "status: NOERROR" in await asyncio.to_thread(dig, MYDB, "AAAA", "+norec", "+dnssec")
    assert "status: BADVERS" in await asyncio.to_thread(dig, MYDB, "+edns=1", "+noednsneg")
    assert "Transfer failed" in await asyncio.to_thread(dig, ZONE, "AXFR")
