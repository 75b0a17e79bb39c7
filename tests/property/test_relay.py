"""Whatever the chunks, the pauses and the order of closing: bytes arrive unchanged, in order and whole."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.pumps import FORMS, TIMEOUT_S, RunningPump, carried_pair

sizes = st.lists(st.integers(0, 3) | st.integers(1, 2000) | st.integers(100_000, 300_000), max_size=12)
reads = st.integers(1, 64) | st.integers(1000, 300_000)


@pytest.fixture(scope="module", params=FORMS)
def pump(request: pytest.FixtureRequest) -> Iterator[RunningPump]:
    running = RunningPump(request.param)
    yield running
    running.stop()


class Talker:
    """One end: sends its chunks in one thread and reads everything in another, then ends its stream."""

    def __init__(
        self, end: socket.socket, chunks: list[int], read_bytes: int, *, waits: threading.Event | None
    ) -> None:
        self.end = end
        pattern = bytes(range(251))  # a prime length: a lost or doubled block cannot go unnoticed
        self.sent = (pattern * (sum(chunks) // len(pattern) + 1))[: sum(chunks)]
        self.received = bytearray()
        self.heard_the_end = threading.Event()
        self._chunks = chunks
        self._read_bytes = read_bytes
        self._waits = waits
        self.threads = [threading.Thread(target=self._speak), threading.Thread(target=self._listen)]
        for thread in self.threads:
            thread.start()

    def _speak(self) -> None:
        if self._waits is not None:
            self._waits.wait(TIMEOUT_S)
        at = 0
        for size in self._chunks:
            self.end.sendall(self.sent[at : at + size])
            at += size
        self.end.shutdown(socket.SHUT_WR)

    def _listen(self) -> None:
        # Tiny reads only for as long as they say something: a megabyte in single bytes would only take time.
        while chunk := self.end.recv(self._read_bytes if len(self.received) < 5000 else 65536):
            self.received += chunk
        self.heard_the_end.set()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    request=sizes,
    answer=sizes,
    client_reads=reads,
    engine_reads=reads,
    answers_after_the_end=st.booleans(),
    small_buffers=st.booleans(),
)
def test_bytes_arrive_unchanged_and_in_order(
    pump: RunningPump,
    request: list[int],
    answer: list[int],
    client_reads: int,
    engine_reads: int,
    answers_after_the_end: bool,
    small_buffers: bool,
) -> None:
    (client_end, engine_end), inner = carried_pair()
    if small_buffers:  # most writes are partial then
        for end in inner:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pump.add(*inner)
    gate = threading.Event()
    client = Talker(client_end, request, client_reads, waits=None)
    engine = Talker(engine_end, answer, engine_reads, waits=gate)
    if answers_after_the_end:
        assert engine.heard_the_end.wait(TIMEOUT_S)
    gate.set()
    for thread in client.threads + engine.threads:
        thread.join(TIMEOUT_S)
    try:
        assert bytes(engine.received) == client.sent
        assert bytes(client.received) == engine.sent
        assert client.heard_the_end.is_set() and engine.heard_the_end.is_set()
    finally:
        client_end.close()
        engine_end.close()
