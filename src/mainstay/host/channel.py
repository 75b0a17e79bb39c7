"""Records with sockets (`records.py`) to and from another process of ours, on an event loop.

Guarantees, tested in tests/unit/host/test_channel.py: records arrive in the order of sending; `send` never waits for
the peer, and what the peer does not take yet is kept; sockets that were sent stay open until the peer has them,
whatever their owner does meanwhile; the end of the channel closes what it keeps, and is told once.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from mainstay.host.records import Record, receive, transmit

RECORD_BYTES_MAX = 64 * 1024
RECEIVED_AT_ONCE = 100
"""So that one peer does not starve whatever else is on the loop."""

log = structlog.get_logger()


class RecordChannel:
    """One end of a connection. `heard` gets every record, and owns the sockets in it; `ended` is called once, when
    there are no more. Must be made and used on the loop.
    """

    def __init__(
        self,
        connection: socket.socket,
        heard: Callable[[Record], None],
        ended: Callable[[], None],
        *,
        carried_max: int = 1,
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._heard = heard
        self._ended = ended
        self._carried_max = carried_max
        self._out: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._receive)

    @property
    def kept(self) -> int:
        """How many records the peer has not taken yet."""
        return len(self._out)

    def send(self, data: bytes, carried: Sequence[socket.socket] = ()) -> None:
        """Sends, now or as soon as the peer takes it; what is `carried` stays ours as well. Nothing if it is closed.

        Raises `OSError`, having sent nothing, if descriptors are needed to keep what is carried and there are none.
        """
        if self.closed:
            return
        descriptors = [one.fileno() for one in carried]
        if not self._out and self._transmit(data, descriptors):
            return
        kept: list[int] = []
        try:
            kept.extend(map(os.dup, descriptors))
        except OSError:
            _close(kept)
            raise
        if not self._out:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        self._out.append((data, kept))

    def close(self) -> None:
        """No more; `ended` is called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _data, descriptors in self._out:
            _close(descriptors)
        self._out.clear()
        self._ended()

    def _transmit(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """False if it must be tried again; a channel that breaks is closed."""
        try:
            return transmit(self._socket, data, descriptors)
        except OSError as error:
            self._break(error)
        return True

    def _break(self, error: OSError) -> None:
        log.warning("channel.broken", error=str(error))
        self.close()

    def _flush(self) -> None:
        while self._out:
            data, descriptors = self._out[0]
            if not self._transmit(data, descriptors) or self.closed:
                return
            self._out.popleft()
            _close(descriptors)
        self._loop.remove_writer(self._socket.fileno())

    def _receive(self) -> None:
        for _ in range(RECEIVED_AT_ONCE):
            try:
                record = receive(self._socket, RECORD_BYTES_MAX, self._carried_max)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(error)
                return
            if not record.data:
                self.close()
                return
            for carried in record.carried:
                carried.setblocking(False)
            self._heard(record)
            if self.closed:
                return


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
