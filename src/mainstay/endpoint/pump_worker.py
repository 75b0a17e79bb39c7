"""`python -m mainstay.endpoint.pump_worker`: a pump that is a process, the endpoint process's child.

Its standard input is its end of a SOCK_SEQPACKET connection to it, over which it gets connected sockets and orders
(`pump_records.py`). It knows nothing of endpoints and routes. When that connection ends, whoever ended it, it resets
all that it carries and ends; when the endpoint process dies, the kernel kills it, even if it is stopped.
It imports little: there may be one for each core.
"""

from __future__ import annotations

import ctypes
import itertools
import signal
import socket
import sys
import traceback
from collections import deque

from mainstay.endpoint import pump_records as records
from mainstay.endpoint.pump import Pump, close_with_reset
from mainstay.host.records import Record, receive, transmit

_PR_SET_PDEATHSIG = 1
_STANDARD_INPUT = 0
_RECEIVED_AT_ONCE = 64
"""Orders; what is carried waits meanwhile."""


class Worker:
    """A pump at the end of a connection that commands it."""

    def __init__(self, commands: socket.socket) -> None:
        commands.setblocking(False)
        self._commands = commands
        self._pump = Pump(commands.fileno(), self._obey, self._closed, self._defect)
        self._unsaid: deque[bytes] = deque()
        self._untold: deque[int] = deque()  # numbers of pairs that have ended; as many as there are pairs at most
        self._waits = False  # for the peer to take what it was told before

    def run(self) -> None:
        """Until the connection ends."""
        self._say(records.READY)
        self._pump.run()

    def _obey(self) -> None:
        for _ in range(_RECEIVED_AT_ONCE):
            try:
                record = receive(self._commands, records.RECORD_BYTES_MAX, 2)
            except BlockingIOError:
                break
            except OSError:
                record = Record(b"", [])
            if not record.data:
                self._pump.end()
                return
            try:
                self._carry_out(record)
            except Exception:  # told through the channel: its other end has the log
                self._defect(traceback.format_exc())
                self._pump.end()
                return
        if self._waits:
            self._flush()

    def _carry_out(self, record: Record) -> None:
        letter = record.data[:1]
        if letter == records.ADD:
            self._add(records.number_of(record.data), record.carried)
        elif letter == records.CUT:
            cut = self._pump.cut(records.numbers_of(record.data))
            self._say(records.with_numbers(records.CUT_DONE, [cut]))
        else:
            raise ValueError(f"no order starts with {letter!r}")

    def _add(self, pair: int, carried: list[socket.socket]) -> None:
        if len(carried) != 2:  # no descriptors were left for them here
            for one in carried:
                close_with_reset(one)
            self._closed(pair)
            return
        for one in carried:
            one.setblocking(False)
        self._pump.add(carried[0], carried[1], pair)

    def _closed(self, pair: int) -> None:
        self._untold.append(pair)
        if not self._waits:
            self._flush()

    def _defect(self, text: str) -> None:
        if not self._waits:  # else there is more wrong than this, and no end of such words
            self._say(records.defect(text))

    def _say(self, record: bytes) -> None:
        self._unsaid.append(record)
        if not self._waits:
            self._flush()

    def _flush(self) -> None:
        try:
            self._wait(not self._flushed())
        except OSError:  # there is nobody any more
            self._pump.end()

    def _flushed(self) -> bool:
        while self._untold:
            told = [*itertools.islice(self._untold, records.PAIRS_MAX)]
            if not transmit(self._commands, records.with_numbers(records.CLOSED, told)):
                return False
            for _ in told:
                self._untold.popleft()
        while self._unsaid:
            if not transmit(self._commands, self._unsaid[0]):
                return False
            self._unsaid.popleft()
        return True

    def _wait(self, waits: bool) -> None:
        if waits != self._waits:
            self._waits = waits
            self._pump.heed_writing(waits)


def main() -> int:
    """Carries until the connection on standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: the endpoint process gets it too, and ends us
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # if it is gone already, the connection is too
    Worker(socket.socket(fileno=_STANDARD_INPUT)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
