"""Records with sockets between two processes of ours."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from harness.service import TIMEOUT_S
from mainstay.host.channel import RECORD_BYTES_MAX, RecordChannel
from mainstay.host.records import Record, receive, transmit


class Ends:
    """A channel, its bare peer, and what the channel said."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer.settimeout(TIMEOUT_S)
        self.heard: list[Record] = []
        self.ended = 0
        self.channel = RecordChannel(ours, self._hear, self._end)

    def _hear(self, record: Record) -> None:
        self.heard.append(record)

    def _end(self) -> None:
        self.ended += 1

    async def next(self) -> Record:
        """What the peer gets, without keeping the channel from sending."""
        return await asyncio.to_thread(receive, self.peer, RECORD_BYTES_MAX, 2)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.channel.close()
    made.peer.close()
    for record in made.heard:
        for one in record.carried:
            one.close()


async def _until_heard(ends: Ends, count: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while len(ends.heard) < count:
            await asyncio.sleep(0.005)


async def test_what_comes_is_heard_with_its_sockets_that_no_program_inherits(ends: Ends) -> None:
    left, right = socket.socketpair()
    with left, right:
        assert transmit(ends.peer, b"here", [right.fileno()])
        assert transmit(ends.peer, b"more")
        await _until_heard(ends, 2)
        assert [record.data for record in ends.heard] == [b"here", b"more"]
        (carried,) = ends.heard[0].carried
        left.send(b"x")
        assert carried.recv(1) == b"x"
        assert not os.get_inheritable(carried.fileno())
        assert carried.gettimeout() == 0


async def test_what_the_peer_does_not_take_is_kept_in_order_with_its_sockets(ends: Ends) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    count = 0
    while not ends.channel.kept:  # the peer does not read: this does not wait
        ends.channel.send(b"%d" % count)
        count += 1
    for number, (left, right) in enumerate(pairs):
        ends.channel.send(b"pair %d" % number, (left, right))
        left.close()  # what was sent stays open on its way
        right.close()
    assert ends.channel.kept == 4
    assert [int((await ends.next()).data) for _ in range(count)] == list(range(count))
    for number in range(3):
        record = await ends.next()
        assert record.data == b"pair %d" % number
        left, right = record.carried
        with left, right:
            left.send(b"x")
            assert right.recv(1) == b"x"
    assert ends.channel.kept == 0


async def test_a_closed_channel_says_so_once_and_closes_what_it_kept(ends: Ends) -> None:
    while not ends.channel.kept:
        ends.channel.send(b"x" * 1000)
    left, right = socket.socketpair()
    with left:
        ends.channel.send(b"with a socket", (right,))
        right.close()
        ends.channel.close()
        ends.channel.close()
        assert ends.ended == 1
        assert left.recv(1) == b"", "nobody has the other end any more"
        ends.channel.send(b"nothing happens")


@pytest.mark.parametrize("with_a_reset", [True, False])
async def test_the_end_of_the_peer_is_told(ends: Ends, with_a_reset: bool) -> None:
    if with_a_reset:
        ends.channel.send(b"never read")
    ends.peer.close()
    async with asyncio.timeout(TIMEOUT_S):
        while not ends.ended:
            await asyncio.sleep(0.005)
    assert ends.channel.closed


async def test_a_record_that_is_too_long_ends_the_channel(ends: Ends) -> None:
    assert transmit(ends.peer, bytes(RECORD_BYTES_MAX))
    await _until_heard(ends, 1)
    assert not ends.channel.closed
    assert transmit(ends.peer, bytes(RECORD_BYTES_MAX + 1))
    async with asyncio.timeout(TIMEOUT_S):
        while not ends.channel.closed:
            await asyncio.sleep(0.005)
    assert len(ends.heard) == 1
