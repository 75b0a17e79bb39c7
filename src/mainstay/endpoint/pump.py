"""The hot path: carries bytes between pairs of connected sockets in a thread of its own.

Guarantees, tested in tests/unit/endpoint/test_pump.py and tests/property/test_relay.py: bytes arrive unchanged, in
order and whole; an end of stream in one direction leaves the other direction open; what the engine wrote before it
went away still reaches the client; one direction never holds more than `BUFFER_BYTES`, so a slow reader slows its
writer down; an idle connection costs two sockets and no buffer.

Why an own epoll loop: one round trip through it costs four socket calls and about 2 us of Python (bench/
endpoint_relay.py), and an idle connection needs no transport object or buffer of its own. Splicing through a pipe
would double the calls, which for the small messages of databases are nearly the whole cost.

Reading is edge-triggered: the kernel need not look again at a socket that was emptied. What an edge does not repeat is
asked for again by `_look_again`: the rest behind a full buffer, and the end of stream that came with the last bytes.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from fcntl import ioctl
from typing import Any, Final

import structlog

from mainstay.endpoint.limits import BUFFER_BYTES

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_READS: Final = _IN | select.EPOLLRDHUP
_READS_ONLY: Final = _READS | select.EPOLLET
_EVENTS_PER_POLL: Final = 256
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST

log = structlog.get_logger()


def close_with_reset(connection: socket.socket) -> None:
    """Closes so that the peer sees a reset at once and no state lingers here."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # already disconnected: nothing to reset
    connection.close()


class Tag:
    """What a pair belongs to; decides about cuts."""

    __slots__ = ("endpoint_id", "epoch", "target")

    def __init__(self, endpoint_id: str, epoch: int, target: tuple[str, int]) -> None:
        self.endpoint_id = endpoint_id
        self.epoch = epoch
        self.target = target


class _Half:
    """One direction: everything read from `source` goes to the source of `other`."""

    __slots__ = ("ended", "fd", "finished", "mask", "other", "pending", "receive", "reset", "send", "source", "tag")

    other: _Half

    def __init__(self, source: socket.socket, sink: socket.socket, tag: Tag) -> None:
        self.source = source
        self.fd = source.fileno()
        self.receive = source.recv_into
        self.send = sink.send
        self.tag = tag
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
    """The thread and its control interface. All public methods may be called from any thread."""

    def __init__(self, on_closed: Callable[[Tag], None]) -> None:
        """`on_closed` runs in the pump's thread whenever a pair is gone."""
        self._on_closed = on_closed
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, _IN)
        self._commands: deque[Callable[[], None]] = deque()
        self._halves: dict[int, _Half] = {}
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._running = True
        self._runner = threading.Thread(target=self._run, name="pump", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._runner.start()

    def stop(self) -> None:
        """Resets every pair and waits for the thread to end."""
        self._submit(self._shut)
        self._runner.join()
        self._epoll.close()
        os.close(self._wakeup)

    def add(self, client: socket.socket, engine: socket.socket, tag: Tag) -> None:
        """Takes over two connected, non-blocking sockets."""
        self._submit(lambda: self._add(client, engine, tag))

    def cut(self, doomed: Callable[[Tag], bool]) -> Future[int]:
        """Resets both ends of the pairs that `doomed` picks, after all pairs added before; how many they were."""
        future: Future[int] = Future()
        self._submit(lambda: future.set_result(self._cut(doomed)))
        return future

    def _submit(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:  # noqa: C901 - the hot loop: calling out per event would cost more than all it does
        halves, buffer, poll, wakeup = self._halves, self._buffer, self._epoll.poll, self._wakeup
        reads, full = _IN, len(buffer)  # local names, as those above: each is needed for every message
        while self._running:
            commanded = False
            for fd, events in poll(-1, _EVENTS_PER_POLL):
                half = halves.get(fd)
                if half is None:
                    commanded = commanded or fd == wakeup  # else: closed earlier in this batch
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
                    log.exception("endpoint.pump_failed", endpoint_id=half.tag.endpoint_id)
                    self._close(half, reset=True)
            if commanded:  # after the batch, so that a descriptor's number is never reused within one
                self._obey()

    def _obey(self) -> None:
        os.eventfd_read(self._wakeup)
        while self._commands:
            command = self._commands.popleft()
            try:
                command()
            except Exception:  # as above
                log.exception("endpoint.pump_command_failed")

    def _add(self, client: socket.socket, engine: socket.socket, tag: Tag) -> None:
        request, answer = _Half(client, engine, tag), _Half(engine, client, tag)
        request.other, answer.other = answer, request
        self._halves[request.fd] = request
        self._halves[answer.fd] = answer
        self._watch(request)
        self._watch(answer)

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
        for end in (half, half.other):
            self._halves.pop(end.fd, None)
            end.mask = 0
            if reset and not _unsent(end.source):
                close_with_reset(end.source)
            else:
                end.source.close()
        self._on_closed(half.tag)

    def _cut(self, doomed: Callable[[Tag], bool]) -> int:
        halves = [half for half in self._halves.values() if half.fd < half.other.fd and doomed(half.tag)]
        for half in halves:
            for end in (half, half.other):
                self._halves.pop(end.fd, None)
                close_with_reset(end.source)
            self._on_closed(half.tag)
        return len(halves)

    def _shut(self) -> None:
        self._cut(lambda _: True)
        self._running = False


def _unsent(connection: socket.socket) -> bool:
    """Whether the peer has not yet acknowledged everything that was sent to it."""
    try:
        answer: Any = ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return False
    return bool(struct.unpack("i", answer)[0])
