"""`python -m bench.statement_driver KIND COUNT [tls]`: statements of one client, in turn, through the proxy's parts.

One process has all three: the client and the engine are two sockets that are written to and read here.
"""

from __future__ import annotations

import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.model.proxy import ProxyListener, ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.proxy.listener import secured
from mainstay.proxy.loop import run, running_poller
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.session import ClientSession
from mainstay.proxy.streams import Stream
from mainstay.proxy.target import Database, Target

_SQL = b"SELECT abalance FROM pgbench_accounts WHERE aid = "
_ROWS = wire.message(b"T", b"\0\1abalance\0" + bytes(18)) + wire.message(b"D", b"\0\1\0\0\0\0010")
_END = wire.message(b"C", b"SELECT 1\0") + wire.ready_for_query(b"I")
_SYNC = wire.message(b"S")
_PARSE = b"\0" + _SQL + b"$1;\0\0\0"
ROOM_BYTES = 65536


def _run(number: int, name: bytes) -> bytes:
    """Bind, Describe and Execute of a prepared statement."""
    value = b"%05d" % number
    bind = b"\0" + name + b"\0\0\0\0\1\0\0\0\5" + value + b"\0\0"
    return wire.message(b"B", bind) + wire.message(b"D", b"P\0") + wire.message(b"E", b"\0\0\0\0\0") + _SYNC


def _simple(number: int) -> tuple[bytes, bytes]:
    return wire.query(_SQL + b"%d;" % number), _ROWS + _END


def _extended(number: int) -> tuple[bytes, bytes]:
    return wire.message(b"P", _PARSE) + _run(number, b""), wire.message(b"1") + wire.message(b"2") + _ROWS + _END


def _prepared(number: int) -> tuple[bytes, bytes]:
    return _run(number, b"P_0"), wire.message(b"2") + _ROWS + _END


KINDS: dict[str, Callable[[int], tuple[bytes, bytes]]] = {
    "simple": _simple,
    "extended": _extended,
    "prepared": _prepared,
}
"""What a client sends for its n-th statement, and what the engine answers."""


class _Client:
    """What it sends and receives goes through a socket, in TLS if it is asked to."""

    def __init__(self, connection: socket.socket, served: Callable[[], object]) -> None:
        self._connection, self._served = connection, served
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    def start_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context.wrap_bio(self._in, self._out)
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            if self._out.pending:
                self._connection.send(self._out.read())
                self._served()
            if not done:
                self._in.write(self._connection.recv(ROOM_BYTES))

    def send(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
            data = self._out.read()
        self._connection.send(data)

    def received(self) -> bytes:
        data = self._connection.recv(ROOM_BYTES)
        if self._tls is None:
            return data
        self._in.write(data)
        return self._tls.read(ROOM_BYTES)


def _context() -> ssl.SSLContext:
    """A proxy listener's own."""
    with tempfile.TemporaryDirectory() as directory:
        certificate, _until = CertificateAuthorities(Path(directory), SystemClock()).issue(("localhost",), ())
        spec = ProxyListener(
            endpoint_id="prx", name="localhost", address="127.0.0.1", port=0, admits=(), certificate=certificate
        )
        return secured(spec, Path(directory))[0]


async def main(kind: str, statements: int, *, tls: bool) -> None:
    """Serves them; raises `AssertionError` if an answer is not the engine's."""
    poller = running_poller()
    target = Target(Database(), Metrics(), time.monotonic)
    target.database.place, target.max_connections = "/nowhere", 100
    pool = target.pool(ProxyUser(username="app", password=""), "postgres")
    (near, theirs), (ours, engine) = socket.socketpair(), socket.socketpair()
    for one in (near, theirs, ours, engine):
        one.setblocking(False)
    server = ServerConnection(pool)
    server.connection_made(Stream(poller, ours.detach(), server))
    target.connections.add(server)
    target.settled(server)
    stream = Stream(poller, theirs.detach(), server)  # nothing comes before it is the session's
    client = _Client(near, lambda: poller.run(0.0))
    if tls:
        stream.start_tls(_context())
        client.start_tls()
    stream.set_protocol(ClientSession(pool, stream, {}, 1, b"key!", "prx"))

    def serve(request: bytes, answer: bytes) -> None:
        client.send(request)
        poller.run(0.0)
        assert engine.recv(ROOM_BYTES), "nothing has come to the engine"
        engine.send(answer)
        poller.run(0.0)
        assert client.received() == answer

    if kind == "prepared":
        serve(wire.message(b"P", b"P_0" + _PARSE) + _SYNC, wire.message(b"1") + wire.ready_for_query(b"I"))
    for number in range(statements):
        serve(*KINDS[kind](10_000 + number))


if __name__ == "__main__":
    run(main(sys.argv[1], int(sys.argv[2]), tls=sys.argv[3:] == ["tls"]))
