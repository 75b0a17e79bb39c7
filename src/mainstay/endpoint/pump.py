"""The hot path: carries bytes between pairs of connected sockets.

Guarantees, tested in tests/unit/endpoint/test_pump.py and tests/property/test_relay.py: bytes arrive unchanged, in
order and whole; an end of stream in one direction leaves the other direction open; what the engine wrote before it
went away still reaches the client; one direction never holds more than `BUFFER_BYTES`, so a slow reader slows its
writer down; an idle connection costs two sockets and no buffer.

Why an own epoll loop: one round trip through it costs four socket calls and about 2 us of Python (bench/
endpoint_relay.py), and an idle connection needs no transport object or buffer of its own. Splicing through a pipe
would double the calls, which for the small messages of databases are nearly the whole cost.

Reading is edge-triggered: the kernel need not look again at a socket that was emptied. What an edge does not repeat is
asked for again by `_look_again`: the rest behind a full buffer, and the end of stream that came with the last bytes.

A pump runs in a thread of the endpoint process (`pump_thread.py`) or is a process (`pump_worker.py`), so this module
imports little. Whom a pair belongs to is not known here: it has a number.
"""

from __future__ import annotations

import select
import socket
import struct
import termios
import traceback
from collections.abc import Callable, Iterable
from fcntl import ioctl
from typing import Any, Final

from mainstay.endpoint.limits import BUFFER_BYTES

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_READS: Final = _IN | select.EPOLLRDHUP
_READS_ONLY: Final = _READS | select.EPOLLET
_EVENTS_PER_POLL: Final = 256
_LINGER_NONE = struct.pack("ii", 1, 0)  # on, 0 s: close() sends RST
_LINGER_OFF = struct.pack("ii", 0, 0)


def reset_when_closed(connection: socket.socket) -> None:
    """From now on its peer sees a reset as soon as nobody has it open any more, even if that is by kill -9, and what
    was not sent yet is dropped.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)


def close_with_reset(connection: socket.socket) -> None:
    """Closes so that the peer sees a reset at once and no state lingers here."""
    try:
        reset_when_closed(connection)
    except OSError:
        pass  # already disconnected: nothing to reset
    connection.close()


def _close_in_order(connection: socket.socket) -> None:
    """Closes after what was sent, whatever `reset_when_closed` was told before."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    except OSError:
        pass  # already disconnected
    connection.close()


class _Half:
    """One direction: everything read from `source` goes to the source of `other`."""

    __slots__ = ("ended", "fd", "finished", "mask", "other", "pair", "pending", "receive", "reset", "send", "source")

    other: _Half

    def __init__(self, source: socket.socket, sink: socket.socket, pair: int) -> None:
        self.source = source
        self.fd = source.fileno()
        self.receive = source.recv_into
        self.send = sink.send
        self.pair = pair
        self.pending: memoryview | None = None  # read but not yet taken by the sink
        self.ended = False  # the source has nothing more to say
        self.finished = False  # and the sink has been told so, or cannot be told any more
        self.reset = False  # the source was reset rather than ended
        self.mask = 0

    def wanted(self) -> int:
        """Events that matter now: none at all means that the socket must leave epoll, which reports hang-ups always."""
        reads = not self.ended and self.pending is None
        if self.other.pending is not None:
            return _READS | _OUT if reads else _OUT
        return _READS_ONLY if reads else 0


class Pump:
    """What carries pairs. Whoever made it runs it in a thread, and calls everything else in that thread."""

    def __init__(
        self,
        control: int,
        obey: Callable[[], None],
        on_closed: Callable[[int], None],
        on_defect: Callable[[str], None],
    ) -> None:
        """`obey` is called whenever the descriptor `control` has something to read: orders to this pump. `on_closed`
        hears the number of a pair that has ended by itself, `on_defect` the traceback of a failure that should not be.
        """
        self._control = control
        self._obey = obey
        self._on_closed = on_closed
        self._on_defect = on_defect
        self._epoll = select.epoll()
        self._epoll.register(control, _IN)
        self._halves: dict[int, _Half] = {}  # by descriptor
        self._requests: dict[int, _Half] = {}  # by number of the pair: what the client says
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._running = True

    def run(self) -> None:  # noqa: C901 - the hot loop: calling out per event would cost more than all it does
        """Carries bytes until `end`."""
        halves, buffer, poll, control = self._halves, self._buffer, self._epoll.poll, self._control
        reads, full = _IN, len(buffer)  # local names, as those above: each is needed for every message
        while self._running:
            commanded = False
            for fd, events in poll(-1, _EVENTS_PER_POLL):
                half = halves.get(fd)
                if half is None:
                    commanded = commanded or fd == control  # else: closed earlier in this batch
                    continue
                try:
                    if events != reads:
                        self._flush(half.other, events)
                    if half.mask & reads:
                        receive, send = half.receive, half.send
                        count = receive(buffer)
                        if not count:
                            self._end(half)
                            continue
                        try:
                            sent = send(buffer[:count])
                        except BlockingIOError:
                            sent = 0
                        except OSError:
                            self._lose_sink(half)
                            continue
                        if sent != count:
                            self._stall(half, buffer[sent:count])
                        elif count == full or events != reads:
                            self._look_again(half)
                except BlockingIOError:
                    continue  # woken for nothing
                except OSError:
                    half.reset = True
                    self._end(half)
                except Exception:  # the outermost loop: a defect must cost one connection, not all of them
                    self._on_defect(traceback.format_exc())
                    self._close(half, reset=True)
            if commanded:  # after the batch, so that a descriptor's number is never reused within one
                self._obey()
        self._epoll.close()

    def add(self, client: socket.socket, engine: socket.socket, pair: int) -> None:
        """Takes over two connected, non-blocking sockets under a number that no other pair has."""
        request, answer = _Half(client, engine, pair), _Half(engine, client, pair)
        request.other, answer.other = answer, request
        self._requests[pair] = request
        self._halves[request.fd] = request
        self._halves[answer.fd] = answer
        try:
            self._watch(request)
            self._watch(answer)
        except OSError:  # no memory, or more than fs.epoll.max_user_watches
            self._on_defect(traceback.format_exc())
            self._close(request, reset=True)

    def cut(self, pairs: Iterable[int]) -> int:
        """Resets both ends of these pairs, as far as they are here; how many they were. Nobody else is told."""
        count = 0
        for pair in pairs:
            request = self._requests.get(pair)
            if request is not None:
                self._forget(request)
                close_with_reset(request.source)
                close_with_reset(request.other.source)
                count += 1
        return count

    def release(self, count_max: int) -> list[tuple[int, socket.socket, socket.socket]]:
        """Gives pairs away with their client's and engine's sockets, for another pump to carry: those that have nothing
        under way.
        """
        released: list[tuple[int, socket.socket, socket.socket]] = []
        for request in list(self._requests.values()):
            if len(released) == count_max:
                break
            answer = request.other
            if request.mask == answer.mask == _READS_ONLY:
                # A socket leaves epoll by itself only when nobody has it open any more.
                self._epoll.unregister(request.fd)
                self._epoll.unregister(answer.fd)
                self._forget(request)
                released.append((request.pair, request.source, answer.source))
        return released

    def heed_writing(self, wanted: bool) -> None:
        """Whether `obey` is also called when the descriptor `control` can be written to."""
        self._epoll.modify(self._control, _IN | _OUT if wanted else _IN)

    def end(self) -> None:
        """Resets every pair; `run` returns."""
        self.cut(list(self._requests))
        self._running = False

    def _watch(self, half: _Half) -> None:
        """Makes epoll report what this socket is wanted for."""
        wanted = half.wanted()
        if wanted == half.mask:
            return
        if not half.mask:
            self._epoll.register(half.fd, wanted)
        elif not wanted:
            self._epoll.unregister(half.fd)
        else:
            self._epoll.modify(half.fd, wanted)
        half.mask = wanted

    def _look_again(self, half: _Half) -> None:
        """Makes epoll report what is still to be read now, edge or not."""
        if half.mask == _READS_ONLY:
            self._epoll.modify(half.fd, half.mask)

    def _stall(self, half: _Half, rest: memoryview) -> None:
        """The sink is full: keep the rest, read no more until it is taken."""
        half.pending = memoryview(bytes(rest))
        self._watch(half)
        self._watch(half.other)

    def _flush(self, half: _Half, events: int) -> None:
        """The sink may take more of what was kept for it."""
        pending = half.pending
        if pending is None or not events & ~_IN:
            return
        try:
            sent = half.send(pending)
        except BlockingIOError:
            return
        except OSError:
            self._lose_sink(half)
            return
        half.pending = pending[sent:] if sent < len(pending) else None
        if half.pending is not None:
            return
        if half.ended:
            self._finish(half)
        if half.fd in self._halves:
            self._watch(half)
            self._watch(half.other)

    def _end(self, half: _Half) -> None:
        """The source ended or was reset; the sink is told as soon as it has everything."""
        half.ended = True
        self._watch(half)
        if half.pending is None:
            self._finish(half)

    def _finish(self, half: _Half) -> None:
        half.finished = True
        if half.reset or half.other.finished:
            self._close(half, reset=half.reset or half.other.reset)
            return
        try:
            half.other.source.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the sink is gone already; its own direction will notice and close

    def _lose_sink(self, half: _Half) -> None:
        """The sink takes nothing more. What it said before is still read: it may be the reason."""
        half.pending = None
        half.ended = half.finished = True
        half.other.reset = True
        if half.other.finished:
            self._close(half, reset=True)
            return
        self._watch(half)
        self._watch(half.other)

    def _close(self, half: _Half, *, reset: bool) -> None:
        """Ends the pair. A reset is passed on as a reset, unless bytes are still on their way: those win."""
        self._forget(half)
        for end in (half, half.other):
            if reset and not _unsent(end.source):
                close_with_reset(end.source)
            else:
                _close_in_order(end.source)
        self._on_closed(half.pair)

    def _forget(self, half: _Half) -> None:
        self._requests.pop(half.pair, None)
        for end in (half, half.other):
            self._halves.pop(end.fd, None)
            end.mask = 0


def _unsent(connection: socket.socket) -> bool:
    """Whether the peer has not yet acknowledged everything that was sent to it."""
    try:
        answer: Any = ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return False
    return bool(struct.unpack("i", answer)[0])
