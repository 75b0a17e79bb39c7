"""The proxy's streams on real sockets: order, slow readers, ends, TLS, and asyncio beside them."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.host.socket_calls import RECEIVE_BYTES
from mainstay.proxy.accepting import Acceptor
from mainstay.proxy.loop import connect, run, running_poller
from mainstay.proxy.streams import HIGH_WATER_BYTES, Stream

LONG = bytes(range(256)) * 16 * 1024


class Seen:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[str] = []
        self.changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data
        self.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost" if exc is None else type(exc).__name__)
        self.changed.set()

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test in a `ProxyLoop`."""

    def wrapper() -> None:
        run(test())

    wrapper.__name__ = test.__name__
    return wrapper


def pair() -> tuple[Stream, Seen, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    seen = Seen()
    return Stream(running_poller(), ours.detach(), seen), seen, theirs


class Hesitant(Seen):
    """It takes a breath after each piece; what TLS has decrypted by then must not get lost."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.stream.pause_reading()
        asyncio.get_running_loop().call_later(0.001, self.stream.resume_reading)


async def read(theirs: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(theirs, 65536)
        if not more:
            break
        data += more
    return data


@in_loop
async def test_bytes_both_ways_and_an_end() -> None:
    stream, seen, theirs = pair()
    stream.write(b"one")
    stream.write(b"two")
    assert await read(theirs, 6) == b"onetwo"
    theirs.send(b"three")
    theirs.close()
    await seen.until(lambda: bool(seen.calls))
    assert bytes(seen.data) == b"three" and seen.calls == ["lost"]
    assert stream.is_closing()
    stream.write(b"nobody hears this")


@in_loop
async def test_a_slow_reader_pauses_the_writer_and_gets_everything_in_order() -> None:
    stream, seen, theirs = pair()
    stream.write(LONG)
    stream.write(b"the end")
    assert seen.calls == ["pause"] and len(LONG) > HIGH_WATER_BYTES
    stream.close()
    assert await read(theirs, len(LONG) + 7) == LONG + b"the end", "closing waits for it"
    await seen.until(lambda: "lost" in seen.calls)
    assert await read(theirs, 1) == b""
    theirs.close()


@in_loop
async def test_the_writer_may_go_on_when_the_reader_has_caught_up() -> None:
    stream, seen, theirs = pair()
    stream.write(LONG)
    assert await read(theirs, len(LONG)) == LONG
    await seen.until(lambda: seen.calls == ["pause", "resume"])
    stream.write(b"again")
    assert await read(theirs, 5) == b"again"
    stream.abort()
    await seen.until(lambda: "lost" in seen.calls)
    theirs.close()


@in_loop
async def test_a_paused_stream_reads_nothing_and_burns_nothing() -> None:
    stream, seen, theirs = pair()
    stream.pause_reading()
    assert not stream.is_reading()
    theirs.send(b"later")
    theirs.close()  # epoll would report this hang-up in every turn
    await asyncio.sleep(0.02)
    assert running_poller().epoll.poll(0.02) == [] and not seen.data
    stream.resume_reading()
    await seen.until(lambda: "lost" in seen.calls)
    assert bytes(seen.data) == b"later"


@in_loop
async def test_last_words_are_heard_of_a_peer_that_takes_nothing_more() -> None:
    stream, seen, theirs = pair()
    theirs.send(b"FATAL: going")
    theirs.close()
    stream.write(b"a request that fails")
    await seen.until(lambda: bool(seen.calls))
    assert bytes(seen.data) == b"FATAL: going"
    assert seen.calls == ["lost"]


@in_loop
async def test_the_end_is_told_once_and_later() -> None:
    stream, seen, theirs = pair()
    stream.close()
    stream.close()
    stream.abort()
    assert seen.calls == []
    await seen.until(lambda: bool(seen.calls))
    await asyncio.sleep(0.01)
    assert seen.calls == ["lost"] and stream.peer() is None
    theirs.close()


@in_loop
async def test_a_defect_costs_one_connection() -> None:
    stream, _seen, theirs = pair()
    other, other_seen, other_theirs = pair()

    class Defect(Seen):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    defect = Defect()
    stream.set_protocol(defect)
    theirs.send(b"x")
    other_theirs.send(b"y")
    await defect.until(lambda: bool(defect.calls))
    await other_seen.until(lambda: bytes(other_seen.data) == b"y")
    other.abort()
    theirs.close()
    other_theirs.close()


@in_loop
async def test_asyncio_runs_beside_busy_streams() -> None:
    """Timers that are set from within a stream's call are due in time, though a stream is always ready."""
    stream, seen, theirs = pair()
    other = Stream(running_poller(), theirs.detach(), echo := Seen())
    loop = asyncio.get_running_loop()
    due: list[float] = []
    done = asyncio.Event()

    def bounce(to: Stream) -> Callable[[bytes], None]:
        def received(data: bytes) -> None:
            to.write(data)
            if not due:
                due.append(loop.time() + 0.05)
                loop.call_later(0.05, done.set)

        return received

    seen.data_received = bounce(stream)  # type: ignore[assignment, method-assign]
    echo.data_received = bounce(other)  # type: ignore[assignment, method-assign]
    stream.write(b"ball")
    async with asyncio.timeout(10):
        await done.wait()
    assert loop.time() >= due[0]
    stream.abort()
    other.abort()
    await seen.until(lambda: bool(seen.calls))


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    certificate = CertificateAuthorities(tmp_path / "ca", SystemClock()).issue(("here",), ("127.0.0.1",))[0]
    (tmp_path / "crt").write_text(certificate.certificate_pem)
    (tmp_path / "key").write_text(certificate.private_key_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


def test_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts

    async def whole() -> None:
        stream, seen, theirs = pair()
        stream.start_tls(server)
        reader, writer = await asyncio.open_connection(sock=theirs, ssl=client, server_hostname="here")
        writer.write(LONG)
        await seen.until(lambda: len(seen.data) == len(LONG))
        assert seen.data == LONG
        stream.pause_reading()
        writer.write(b"held back")
        await writer.drain()
        await asyncio.sleep(0.05)
        assert len(seen.data) == len(LONG)
        stream.resume_reading()
        await seen.until(lambda: seen.data.endswith(b"held back"))
        hesitant = Hesitant(stream)
        stream.set_protocol(hesitant)
        writer.write(LONG)
        await hesitant.until(lambda: len(hesitant.data) == len(LONG))
        assert hesitant.data == LONG
        stream.write(LONG)
        stream.close()
        assert await reader.readexactly(len(LONG)) == LONG
        assert await reader.read() == b"", "the end came as close_notify says, not as a truncation"
        writer.close()
        with suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()

    run(whole())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_records_are_cut_anywhere(contexts: tuple[ssl.SSLContext, ssl.SSLContext], version: ssl.TLSVersion) -> None:
    """Records of all sizes, several at once and in pieces of all sizes: everything is told as soon as it can be."""
    server, client = contexts
    client.maximum_version = version
    chance = random.Random(version)

    async def whole() -> None:
        stream, seen, theirs = pair()
        stream.start_tls(server)
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client.wrap_bio(received, sent)

        async def pass_on(count: int) -> None:
            await asyncio.get_running_loop().sock_sendall(theirs, sent.read(count))

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await pass_on(-1)
                received.write(await asyncio.get_running_loop().sock_recv(theirs, 65536))
        await pass_on(-1)
        expected = bytearray()
        for _ in range(400):
            for _ in range(chance.choice([1, 1, 1, 2, 5])):
                record = chance.randbytes(chance.choice([1, 40, 300, 5000, 16384]))
                tls.write(record)
                expected.extend(record)
            while sent.pending:
                await pass_on(chance.choice([-1, -1, 1, 4, 5, 6, 30, 5000]) if sent.pending < 20_000 else 7000)
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
                if chance.random() < 0.1:
                    stream.pause_reading()
                    asyncio.get_running_loop().call_soon(stream.resume_reading)
            await seen.until(lambda: len(seen.data) == len(expected))
        assert seen.data == expected
        stream.abort()
        await seen.until(lambda: bool(seen.calls))
        theirs.close()

    run(whole())


def test_plain_bytes_instead_of_a_handshake_are_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def whole() -> None:
        stream, seen, theirs = pair()
        stream.start_tls(context)
        theirs.send(b"Q\0\0\0\x0dSELECT 1\0 and more")
        await seen.until(lambda: bool(seen.calls))
        assert seen.calls == ["SSLError"] and not seen.data
        stream, seen, other = pair()
        stream.start_tls(context)
        other.close()
        await seen.until(lambda: bool(seen.calls))
        assert seen.calls == ["lost"] and not seen.data
        theirs.close()

    run(whole())


@in_loop
async def test_connections_come_and_go() -> None:
    arrived: list[Stream] = []
    seen = Seen()
    poller = running_poller()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    addresses: list[str] = []

    def accepted(fd: int, address: str) -> None:
        addresses.append(address)
        arrived.append(Stream(poller, fd, seen))
        with socket.socket(fileno=os.dup(fd)) as same:
            assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "it has that from the listening socket"
            assert not same.getblocking()

    acceptor = Acceptor(poller, listening, accepted)
    place = listening.getsockname()
    ours = await connect((place[0], place[1]), Seen())
    ours.write(b"hello")
    await seen.until(lambda: bytes(seen.data) == b"hello")
    peer = arrived[0].peer()
    assert peer is not None and peer[0] == "127.0.0.1" == addresses[0]
    acceptor.close()
    with pytest.raises(ConnectionRefusedError):
        await connect((place[0], place[1]), Seen())
    with pytest.raises(FileNotFoundError):
        await connect("/nowhere/at/all", Seen())
    ours.close()
    await seen.until(lambda: seen.calls == ["lost"])


async def test_another_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="ProxyLoop"):
        running_poller()


@in_loop
async def test_timers_run_in_time_and_in_order_beside_busy_streams() -> None:
    stream, _seen, theirs = pair()
    loop = asyncio.get_running_loop()
    busy = _Echo(stream)
    stream.set_protocol(busy)
    threading.Thread(target=_talk, args=(theirs, busy.over), daemon=True).start()
    fired: list[float] = []
    wanted = [loop.time() + after_s for after_s in (0.4, 0.02, 0.2, 0.3, 0.1)]
    for at in wanted:
        loop.call_at(at, fired.append, at)
    loop.call_at(loop.time() + 0.01, fired.append, 0.0).cancel()  # the alarm is set for it, and for nobody then
    while len(fired) < len(wanted):
        await asyncio.sleep(0.03)
        assert all(at in fired for at in wanted if at < loop.time() - 2.0)
    assert fired == sorted(wanted)
    assert busy.pieces > 100
    busy.over.set()
    stream.abort()


class _Echo(Seen):
    """Sends back what comes."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self.pieces = 0
        self.over = threading.Event()

    def data_received(self, data: bytes) -> None:
        self.pieces += 1
        self.stream.write(data)


def _talk(theirs: socket.socket, over: threading.Event) -> None:
    theirs.setblocking(True)
    with theirs, suppress(OSError):
        while not over.is_set():
            theirs.sendall(b"a word")
            theirs.recv(64)


@in_loop
async def test_pieces_of_every_size_about_a_small_one_arrive_whole() -> None:
    for size in (1, RECEIVE_BYTES - 1, RECEIVE_BYTES, RECEIVE_BYTES + 1, 3 * RECEIVE_BYTES):
        stream, seen, theirs = pair()
        sent = bytearray()
        for piece in (b"a" * size, b"b", b"c" * size, b"d"):  # the last one with the end directly behind it
            if sent:
                await _all_here(seen, len(sent))
            theirs.sendall(piece)
            sent += piece
        theirs.close()
        await _ended(seen)
        assert seen.data == sent, size
        assert stream.is_closing()


async def _all_here(seen: Seen, size: int) -> None:
    await seen.until(lambda: len(seen.data) == size)


async def _ended(seen: Seen) -> None:
    await seen.until(lambda: "lost" in seen.calls)
