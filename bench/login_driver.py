"""`python -m bench.login_driver COUNT`: logins with SCRAM-SHA-256 through the proxy's parts, each for one statement.

That is a transaction of `pgbench -C`: a client connects, proves who it is, asks for one row and leaves. Client and
engine are sockets that are written to and read here, as in `statement_driver.py`; the client's proof costs the proxy
nothing.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from pathlib import Path

from bench.statement_driver import KINDS, ROOM_BYTES
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.model.proxy import ProxyListener, ProxySpec, ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.scram import SCRAM, ScramClient
from mainstay.proxy.cancel_keys import Keys
from mainstay.proxy.listener import Listener
from mainstay.proxy.loop import run, running_poller
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.service import Proxy
from mainstay.proxy.streams import Poller, Stream

USER = ProxyUser(username="app", password="secret")
_REPORTED = {"server_version": "17.2", "TimeZone": "UTC", "client_encoding": "UTF8", "DateStyle": "ISO, MDY"}
TIMEOUT_S = 5.0


async def _nobody(token: str, user: ProxyUser, listener: Listener) -> bool:
    raise AssertionError("no user here comes with a token")


async def _proxy(directory: Path) -> Proxy:
    certificate, _until = CertificateAuthorities(directory, SystemClock()).issue(("localhost",), ())
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    listener = ProxyListener(
        endpoint_id="prx", name="localhost", address="127.0.0.1", port=port, admits=("127.0.0.0/8",),
        certificate=certificate,
    )  # fmt: skip
    spec = ProxySpec(
        proxy_id="prx", name="measured", account_id="1", region="eu-central-1", generation=1,
        engine_family="POSTGRESQL", listeners=(listener,), users=(USER,),
    )  # fmt: skip
    proxy = Proxy(spec, directory, Keys(), _nobody)
    await proxy.apply(spec)
    return proxy


def _engine(proxy: Proxy, poller: Poller) -> socket.socket:
    """The engine's end of the one connection to it, which is logged in."""
    target, (ours, engine) = proxy.target, socket.socketpair()
    target.database.place, target.max_connections = "/nowhere", 100
    ours.setblocking(False)
    pool = target.pool(USER, "postgres")
    connection = ServerConnection(pool)
    connection.connection_made(Stream(poller, ours.detach(), connection))
    pool.welcome.learn(_REPORTED)
    target.connections.add(connection)
    target.settled(connection)
    return engine


class _Visits:
    """One after the other. A step of the client is taken, then one of the proxy."""

    def __init__(self, proxy: Proxy, poller: Poller) -> None:
        self._address = (proxy.spec.listeners[0].address, proxy.spec.listeners[0].port)
        self._engine = _engine(proxy, poller)
        self._poller = poller

    def visit(self, number: int) -> None:
        """Raises `AssertionError` if an answer is not what it should be."""
        with socket.create_connection(self._address, timeout=TIMEOUT_S) as client:
            self._poller.run(0.0)
            scram = ScramClient(USER.password, f"nonce {number}")
            startup = wire.startup({"user": USER.username, "database": "postgres", "application_name": "pgbench"})
            assert self._told(client, startup)[:1] == b"R"
            first = scram.first()
            offered = self._told(
                client, wire.message(b"p", wire.cstring(SCRAM) + len(first).to_bytes(4, "big") + first)
            )
            final = scram.final(offered[9:])
            assert self._told(client, wire.message(b"p", final)).endswith(wire.ready_for_query(b"I"))
            request, answer = KINDS["simple"](number)
            client.send(request)
            self._poller.run(0.0)
            for _query in wire.split(self._engine.recv(ROOM_BYTES)):  # once also one that sets the application's name
                self._engine.send(answer)
            self._poller.run(0.0)
            assert client.recv(ROOM_BYTES) == answer
            client.send(wire.message(b"X"))
            self._poller.run(0.0)
        self._poller.run(0.0)

    def _told(self, client: socket.socket, data: bytes) -> bytes:
        client.send(data)
        self._poller.run(0.0)
        return client.recv(ROOM_BYTES)


async def main(logins: int) -> None:
    """Has them all."""
    with tempfile.TemporaryDirectory() as directory:
        proxy = await _proxy(Path(directory))
        visits = _Visits(proxy, running_poller())
        for number in range(logins):
            visits.visit(10_000 + number)
        assert proxy.metrics.totals()["ClientConnectionsSetupSucceeded"] == logins
        proxy.stop()


if __name__ == "__main__":
    run(main(int(sys.argv[1])))
