"""The byte pump, as a thread and as a process, against well-behaved and badly behaved peers."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from typing import Any

import pytest

from harness.pumps import TIMEOUT_S
from harness.service import eventually
from mainstay.endpoint.carrier import Tag
from mainstay.endpoint.limits import BUFFER_BYTES
from mainstay.endpoint.pump import close_with_reset


def _read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    while chunk := connection.recv(65536):
        received += chunk
    return bytes(received)


def _until(condition: Any) -> None:
    eventually(condition, interval_s=0.005)


def test_single_bytes_arrive_in_order(rig: Any) -> None:
    client, engine = rig.connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for value in range(256):
        client.send(bytes([value]))
    client.shutdown(socket.SHUT_WR)
    assert _read_all(engine) == bytes(range(256))


def test_big_transfers_in_both_directions_at_once_are_unchanged(rig: Any) -> None:
    client, engine = rig.connect()
    upload = random.Random(1).randbytes(24_000_000)
    download = random.Random(2).randbytes(24_000_000)
    received: dict[str, bytes] = {}

    def send(connection: socket.socket, content: bytes) -> None:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)

    def receive(name: str, connection: socket.socket) -> None:
        received[name] = _read_all(connection)

    threads = [
        threading.Thread(target=send, args=(client, upload)),
        threading.Thread(target=send, args=(engine, download)),
        threading.Thread(target=receive, args=("upload", engine)),
        threading.Thread(target=receive, args=("download", client)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert hashlib.sha256(received["upload"]).digest() == hashlib.sha256(upload).digest()
    assert hashlib.sha256(received["download"]).digest() == hashlib.sha256(download).digest()
    _until(lambda: len(rig.closed) == 1)


@pytest.mark.parametrize("client_ends_first", [True, False])
def test_the_other_direction_lives_on_after_an_end_of_stream(rig: Any, client_ends_first: bool) -> None:
    first, second = rig.connect() if client_ends_first else reversed(rig.connect())
    first.sendall(b"last question")
    first.shutdown(socket.SHUT_WR)
    assert _read_all(second) == b"last question"
    second.sendall(b"late answer")
    assert first.recv(100) == b"late answer"
    assert rig.closed == []
    second.sendall(b", the end")
    second.close()
    assert _read_all(first) == b", the end"
    _until(lambda: len(rig.closed) == 1)


@pytest.mark.parametrize("client_resets", [True, False])
def test_a_reset_is_passed_on_as_a_reset(rig: Any, client_resets: bool) -> None:
    first, second = rig.connect() if client_resets else reversed(rig.connect())
    first.sendall(b"x")
    assert second.recv(1) == b"x"
    close_with_reset(first)
    with pytest.raises(ConnectionResetError):
        second.recv(1)
    _until(lambda: len(rig.closed) == 1)


@pytest.mark.parametrize("client_talks_meanwhile", [True, False])
def test_the_last_words_of_an_engine_that_resets_reach_the_client(rig: Any, client_talks_meanwhile: bool) -> None:
    client, engine = rig.connect()
    client.sendall(b"a statement that the engine never reads")
    _until(lambda: engine.recv(1, socket.MSG_PEEK) == b"a")
    with rig.stalled():  # both happen before the pump sees either
        if client_talks_meanwhile:
            client.send(b"more")
        engine.sendall(b"FATAL: terminating connection")
        engine.close()  # with unread data: the kernel sends a reset
    received = bytearray()
    try:
        while chunk := client.recv(100):
            received += chunk
    except ConnectionResetError:
        pass
    assert received == b"FATAL: terminating connection"


def test_a_slow_reader_stops_its_writer_and_loses_nothing(rig: Any) -> None:
    client, engine = rig.connect()
    content = random.Random(3).randbytes(64_000_000)
    client.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < len(content):
            sent += client.send(content[sent : sent + 1_000_000])
    assert sent < 40_000_000, "somebody buffers without a limit"
    client.settimeout(TIMEOUT_S)
    client.shutdown(socket.SHUT_WR)
    assert _read_all(engine) == content[:sent]


def test_a_reset_behind_a_full_sink_does_not_hold_the_pair_for_ever(rig: Any) -> None:
    client, engine = rig.connect()
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            client.send(bytes(1_000_000))
    close_with_reset(engine)
    _until(lambda: len(rig.closed) == 1)


def test_nothing_spins_while_nothing_can_be_done(rig: Any) -> None:
    idle = rig.connect()
    half_closed, _ = rig.connect()
    half_closed.shutdown(socket.SHUT_WR)
    stalled, stalled_engine = rig.connect()
    stalled.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            stalled.send(bytes(1_000_000))
    stalled_engine.shutdown(socket.SHUT_WR)  # and its reader has nothing more to say, so the client's side hangs up
    stalled.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    before = rig.cpu_s()
    time.sleep(0.5)
    assert rig.cpu_s() - before < 0.1
    idle[0].sendall(b"alive")
    assert idle[1].recv(5) == b"alive"


def test_cut_resets_both_ends_of_the_doomed_and_of_nobody_else(rig: Any) -> None:
    old = rig.connect(Tag("db", 1, ("127.0.0.1", 1)))
    new = rig.connect(Tag("db", 2, ("127.0.0.1", 2)))
    assert rig.cut(lambda tag: tag.epoch < 2) == 1
    for end in old:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    new[0].sendall(b"alive")
    assert new[1].recv(5) == b"alive"
    assert [tag.epoch for tag in rig.closed] == [1]


def test_closed_connections_give_their_descriptors_back(rig: Any) -> None:
    before = rig.descriptors()
    for number in range(60):
        client, engine = rig.connect()
        client.sendall(b"x")
        if number % 3 == 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        engine.close()
    _until(lambda: len(rig.closed) == 60)
    _until(lambda: rig.descriptors() == before)


def test_stop_resets_what_is_left(rig: Any) -> None:
    ends = rig.connect()
    rig.stop_pump()
    for end in ends:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert len(rig.closed) == 1


class Defective(socket.socket):
    """One that fails as no socket should."""

    def recv_into(self, *_: Any) -> int:
        raise RuntimeError("a defect")


@pytest.mark.parametrize("rig", ["thread"], indirect=True)  # a process has sockets of its own of all that it gets
def test_a_defect_costs_one_connection_only(rig: Any) -> None:
    broken, other = rig.connect(kind=Defective)
    healthy, engine = rig.connect()
    healthy.sendall(b"x")
    assert engine.recv(1) == b"x"

    broken.send(b"x")
    _until(lambda: len(rig.closed) == 1)
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    healthy.sendall(b"y")
    assert engine.recv(1) == b"y"


@pytest.mark.parametrize("count", [1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES])
def test_what_was_said_before_the_pump_looked_arrives_with_its_end(rig: Any, count: int) -> None:
    """One edge for all of it: bytes around the buffer's size, and the end of stream behind them."""
    content = random.Random(count).randbytes(count)
    with rig.stalled():
        client, engine = rig.connect()  # the pump will take it over when it is free
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
    assert _read_all(engine) == content
    engine.sendall(content)
    assert client.recv(1) == content[:1]


@pytest.mark.parametrize("count", [1, BUFFER_BYTES, BUFFER_BYTES + 1])
def test_all_of_one_edge_is_read(rig: Any, count: int) -> None:
    client, engine = rig.connect()
    client.send(b"a")
    assert engine.recv(1) == b"a"  # registered and emptied: from now on the pump hears of edges only
    content = random.Random(count).randbytes(count)
    with rig.stalled():
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
    assert _read_all(engine) == content
