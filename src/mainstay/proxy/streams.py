"""Sockets of the proxy: its own epoll and streams in place of asyncio's transports.

One statement through the proxy is two reads and two writes, and what surrounds them is most of what a proxy costs. Here
a socket that is ready is read in the turn in which that is known, what its protocol writes is sent at once, and no
callback, future or buffer is made for it. asyncio runs beside it in the same thread, see `loop.py`.

Guarantees: bytes are sent in the order of writing; a peer that reads slowly makes `pause_writing` be called and keeps
its bytes here until then; `connection_lost` is called once, and never from within a call of ours; bytes that came
before an end of stream are delivered before it.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

from mainstay.host.alarm import Alarm
from mainstay.host.socket_calls import RECEIVE_BYTES, looks_at, receive, transmit
from mainstay.proxy.tls import Tls
from mainstay.proxy.transport import DirectReceiver, Receiver

if TYPE_CHECKING:
    from mypy_extensions import i64

HIGH_WATER_BYTES: Final = 64 * 1024
"""With more than this to send, the protocol is asked to pause."""

LOW_WATER_BYTES: Final = 16 * 1024
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_READS: Final = _IN | select.EPOLLRDHUP | select.EPOLLET
"""For a stream that has nothing to send: its edges. The kernel need not look again, at the next look, at each socket
that was emptied meanwhile. What an edge does not repeat is asked for by `_look_again`."""

_RECEIVE_BYTES: Final[int] = RECEIVE_BYTES
_receive: Final[Callable[[int], bytes | None]] = receive  # compiled, what is imported is looked up each time
_transmit: Final[Callable[[int, bytes | bytearray], int]] = transmit

log = structlog.get_logger()


class Watched:
    """Something with a descriptor in a poller."""

    def ready(self, events: int) -> None:
        """The descriptor has these events (epoll_ctl(2))."""

    def failed(self) -> None:
        """`ready` has a defect."""


class Poller:
    """Every socket of one thread. `loop` is asyncio's, run between the turns of this."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.epoll = select.epoll()
        self._look = looks_at(self.epoll)
        self.interrupted = False
        """asyncio has something to do."""

        self._watched: list[Watched | None] = []
        """By descriptor: they are small numbers."""

        self._ended: list[tuple[Stream, Exception | None]] = []
        self._aside = -1
        self._alarm = Alarm()
        self.register(self._alarm.fd, _Due(self, self._alarm), _IN)

    def watch_aside(self, fd: int) -> None:
        """A descriptor that is not ours; `run` returns when it is ready."""
        self._aside = fd
        self.epoll.register(fd, _IN)

    def register(self, fd: int, watched: Watched, events: int) -> None:
        """From now on `watched` is told of these events."""
        while len(self._watched) <= fd:
            self._watched.append(None)
        self._watched[fd] = watched
        self.epoll.register(fd, events)

    def unregister(self, fd: int) -> None:
        """No more; before the descriptor is closed."""
        if fd < len(self._watched) and self._watched[fd] is not None:
            self._watched[fd] = None
            with suppress(OSError):  # it was in no epoll: there was nothing to wait for
                self.epoll.unregister(fd)

    def ended(self, stream: Stream, error: Exception | None) -> None:
        """Nothing more of this one: it is closed, and its protocol told, when this turn is over."""
        self._watched[stream.fd] = None
        self._ended.append((stream, error))

    def _bury(self) -> None:
        while self._ended:
            ended, self._ended = self._ended, []
            for stream, error in ended:
                try:
                    stream.lost(error)
                except Exception:  # as in `run`
                    log.exception("proxy.stream_failed")

    def run(self, timeout_s: float | None) -> bool:
        """Tells who is ready, until the time is up or asyncio has something to do, perhaps a little before; whether its
        descriptor is ready.

        Looks never have a time limit of their own, the alarm ends them: setting one costs the kernel as much as half a
        system call, and with every statement there are two looks.
        """
        watched, aside = self._watched, False
        self.interrupted = False
        if self._ended:
            self._bury()
            if self.interrupted:
                return False
        at_once = timeout_s is not None and timeout_s <= 0.0
        if timeout_s is not None and not at_once:
            self._alarm.no_later_than(monotonic() + timeout_s)
        while True:
            told = self._look(not at_once)
            at: i64 = 0
            while at < len(told):
                fd: i64 = told[at]
                events = told[at + 1]
                at += 2
                one = watched[fd] if fd < len(watched) else None
                if one is None:
                    aside = aside or fd == self._aside  # else: closed earlier in this turn
                    continue
                try:
                    one.ready(events)
                except Exception:  # the outermost loop: a defect must cost one connection, not all of them
                    log.exception("proxy.stream_failed")
                    one.failed()
            if self._ended:  # before the next look: what is closed is in no epoll any more
                self._bury()
            if aside or self.interrupted or at_once:
                return aside

    def close(self) -> None:
        """No stream may be open any more."""
        self.unregister(self._alarm.fd)
        self._alarm.close()
        self.epoll.close()


class _Due(Watched):
    """The alarm has been: asyncio has something to do, or looks at when it will have."""

    def __init__(self, poller: Poller, alarm: Alarm) -> None:
        self._poller = poller
        self._alarm = alarm

    def ready(self, events: int) -> None:
        """See `Watched`."""
        self._alarm.heard()
        self._poller.interrupted = True


class Stream(Watched):
    """A connected, non-blocking socket, read as long as it is not paused. The descriptor is the stream's to close, also
    if there comes no stream of it.
    """

    def __init__(self, poller: Poller, fd: int, protocol: Receiver) -> None:
        self._poller = poller
        self.fd = fd
        self._protocol = protocol
        self._direct = protocol if isinstance(protocol, DirectReceiver) else None
        self._out: bytearray | None = None
        """What the peer has not taken yet; None: nothing."""

        self._tls: Tls | None = None
        self._events: int = _READS
        self._reading = True
        self._closing = False
        self._ended = False
        self._broken = False
        """Nothing can be sent any more; what the peer said before may still come."""

        self._writing_paused = False
        try:
            poller.register(fd, self, _READS)
        except BaseException:
            os.close(fd)
            raise

    # What the protocol calls

    def set_protocol(self, protocol: Receiver) -> None:
        """From now on this one is told."""
        self._protocol = protocol
        self._direct = protocol if isinstance(protocol, DirectReceiver) else None

    def write(self, data: bytes) -> None:
        """See `transport.Transport`."""
        if self._closing:
            return
        self._send(data if self._tls is None else self._tls.encrypted(data))

    def close(self) -> None:
        """See `transport.Transport`."""
        if self._closing:
            return
        if self._tls is not None:
            self._send(self._tls.farewell())
        self._closing = True
        if self._out is None:
            self._lose(None)
        else:
            self._watch()

    def abort(self) -> None:
        """See `transport.Transport`."""
        self._closing = True
        self._lose(None)

    def is_closing(self) -> bool:
        """See `transport.Transport`."""
        return self._closing

    def is_reading(self) -> bool:
        """See `transport.Transport`."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """See `transport.Transport`."""
        self._reading = False
        self._watch()

    def resume_reading(self) -> None:
        """See `transport.Transport`."""
        if self._closing or self._reading:
            return
        self._reading = True
        self._watch()
        if self._tls is not None and self._tls.held:
            self._poller.loop.call_soon(self._decrypt, b"")

    def peer(self) -> tuple[str, int] | None:
        """See `transport.Transport`."""
        try:
            with socket.socket(fileno=os.dup(self.fd)) as same:
                name = same.getpeername()
        except OSError:
            return None
        return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None

    def start_tls(self, context: ssl.SSLContext, received: bytes = b"", *, alpn: str = "") -> None:
        """As the server's side: from now on everything is inside TLS. A handshake that fails ends the connection, as
        does one without `alpn`, if that is not "". `received` is what has come of the handshake already.
        """
        self._tls = Tls(context, alpn)
        if received:
            self._decrypt(received)

    # What the poller calls

    def ready(self, events: int) -> None:
        """See `Watched`."""
        if events != _IN and self._out is not None:
            self._flush()
        if self._closing or not self._reading or events == _OUT:
            return
        try:
            data = _receive(self.fd)
        except OSError as error:
            self._closing = True
            self._lose(error)
            return
        if data is None:
            return
        if events != _IN or len(data) == _RECEIVE_BYTES:
            self._look_again()
        if not data:
            self.close()
        elif self._tls is not None:
            self._decrypt(data)
        else:
            self._tell(data)

    def failed(self) -> None:
        """See `Watched`."""
        self.abort()

    def _tell(self, data: bytes) -> None:
        direct = self._direct
        if direct is not None:
            direct.data_received(data)
        else:
            self._protocol.data_received(data)

    def _decrypt(self, data: bytes) -> None:
        tls = self._tls
        if tls is None or self._closing:
            return
        tls.received(data)
        if not tls.ready:
            self._shake_hands(tls)
            return
        while self._reading and not self._closing:
            try:
                plain = tls.decrypted()
            except ssl.SSLError as error:
                self._send(tls.alert())
                self._closing = True
                self._lose(error)
                return
            if not plain:
                if answer := tls.alert():  # after bytes, it goes before whatever is sent next (RFC 8446, 4.6.3)
                    self._send(answer)
                if plain is None:
                    self.close()
                break
            self._tell(plain)
            if not tls.more():  # asking for nothing would cost an exception
                break
        tls.held = not self._reading

    def _shake_hands(self, tls: Tls) -> None:
        try:
            done = tls.shaken()
        except ssl.SSLError as error:
            self._send(tls.alert())
            self._closing = True
            self._lose(error)
            return
        if answer := tls.alert():
            self._send(answer)
        if done and tls.more():  # something came with the last message of the handshake
            self._decrypt(b"")

    # Sending

    def _send(self, data: bytes) -> None:
        if self._broken:
            return
        if self._out is not None:
            self._out += data
        else:
            try:
                sent = _transmit(self.fd, data)
            except OSError as error:
                self._break(error)
                return
            if sent == len(data):
                return
            self._out = bytearray(data[sent:])
            self._watch()
        if len(self._out) > HIGH_WATER_BYTES and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _flush(self) -> None:
        out = self._out
        if out is None:
            return
        try:
            sent = _transmit(self.fd, out)
        except OSError as error:
            self._break(error)
            return
        del out[:sent]
        if not out:
            self._out = None
            if self._closing:
                self._lose(None)
            else:
                self._watch()
        if self._writing_paused and len(out) <= LOW_WATER_BYTES:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _break(self, error: OSError) -> None:
        """Nothing can be sent. What the peer has said before is still read: it may be the reason."""
        self._broken, self._out = True, None
        if self._closing or not self._reading:
            self._closing = True
            self._lose(error)
        else:
            self._watch()
            self._look_again()

    def _watch(self) -> None:
        """Makes epoll report what matters now. Of a socket where nothing does, it would report hang-ups forever."""
        if self._ended:
            return
        reads = self._reading and not self._closing
        if self._out is not None:
            wanted = _IN | _OUT if reads else _OUT
        else:
            wanted = _READS if reads else 0
        if wanted == self._events:
            return
        epoll = self._poller.epoll
        if not self._events:
            epoll.register(self.fd, wanted)
        elif not wanted:
            epoll.unregister(self.fd)
        else:
            epoll.modify(self.fd, wanted)
        self._events = wanted

    def _look_again(self) -> None:
        """There may be more to read than was read: a rest, or the end that came with the last bytes."""
        if self._events == _READS and not self._ended:
            self._poller.epoll.modify(self.fd, _READS)

    def _lose(self, error: Exception | None) -> None:
        """Ends it, and tells the protocol in a later turn."""
        if self._ended:
            return
        self._ended = True
        self._out = None
        self._poller.ended(self, error)

    def lost(self, error: Exception | None) -> None:
        """For the poller: the very end."""
        self._broken = True  # the descriptor may be another's from now on
        os.close(self.fd)
        direct = self._direct
        if direct is not None:
            direct.connection_lost(error)
        else:
            self._protocol.connection_lost(error)
