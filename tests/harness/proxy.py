"""A proxy process in front of one instance of a service, without the API: the spec is put into it directly.

Control is frozen meanwhile: it would stop a process that serves proxies of which it has no records.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgspec
import psycopg

from harness.service import PASSWORD, Service, eventually, free_port
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.host.layout import lock_path, worker_names
from mainstay.host.locks import holder
from mainstay.host.rpc import RpcClient
from mainstay.model.node import ServerCertificate
from mainstay.model.proxy import PoolConfiguration, ProxyListener, ProxySpec, ProxyUser
from mainstay.protocol.postgres import wire

NAME = "tested.proxy.local"
PROXY_USERS = (
    ProxyUser(username="app", password=PASSWORD),
    ProxyUser(username="second", password="second-pass-1"),
    ProxyUser(username="wrongly", password="not-what-the-engine-has"),
)
"""The first two exist in the engine with these passwords."""


class ProxyUnderTest:
    """`python -m mainstay.proxy` with one proxy to one instance. `members` are those of `ProxySpec`, `pool` those of
    its `PoolConfiguration`."""

    def __init__(
        self, service: Service, instance: dict[str, Any], *, pool: dict[str, Any] | None = None, **members: Any
    ):
        self.service = service
        self.instance = instance
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._generation = 0
        self._frozen = ExitStack()
        self.log_path = service.home / "logs" / "proxy-under-test.log"
        authorities = CertificateAuthorities(service.home / "proxy-test-ca", SystemClock())
        self.certificate: ServerCertificate = authorities.issue((NAME,), ("127.0.0.1",))[0]
        self.ca_bundle = service.home / "proxy-test-ca.pem"
        self.ca_bundle.write_text(authorities.bundle_pem)
        listener = ProxyListener(
            endpoint_id="prx-1",
            name=NAME,
            address="127.0.0.1",
            port=self.port,
            admits=("127.0.0.0/8",),
            certificate=self.certificate,
        )
        self.spec = ProxySpec(
            **{
                "proxy_id": "prx-1",
                "name": "tested",
                "account_id": "123456789012",
                "region": "eu-central-1",
                "generation": 0,
                "engine_family": "POSTGRESQL",
                "listeners": (listener,),
                "users": (ProxyUser(username="app", password=PASSWORD),),
                "pool": PoolConfiguration(**(pool or {})),
                "target": instance["DbiResourceId"],
                **members,
            }
        )

    def __enter__(self) -> ProxyUnderTest:
        # A process that served proxies made through the API ends when control has told it of the last one's end.
        eventually(lambda: holder(lock_path(self.service.settings, "proxy")) is None)
        try:
            self._frozen.enter_context(self.service.stopped("control"))
            self.start()
            self.put()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            gone = msgspec.structs.replace(self.spec, generation=self._generation + 1, absent=True)
            self.call("put_proxy", msgspec.to_builtins(gone))
        pid = holder(lock_path(self.service.settings, "proxy"))
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if self._process is not None:
            self._process.wait(20)
        eventually(lambda: holder(lock_path(self.service.settings, "proxy")) is None)
        self._frozen.close()

    # The process

    def start(self) -> None:
        """Starts the process and waits until it can be called."""
        # The supervisor starts none before there are specs.
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mainstay.proxy"], env=self.service.environment, stdout=log, stderr=log
            )
        pid = self._process.pid
        eventually(lambda: holder(lock_path(self.service.settings, "proxy")) == pid)
        eventually(lambda: self.answers())

    def answers(self) -> bool:
        """Whether it can be called."""
        try:
            return bool(self.call("ping"))
        except Exception:
            return False

    @property
    def pid(self) -> int:
        """The process's."""
        return self.service.process("proxy")

    def workers(self) -> dict[int, int]:
        """Their pids by their numbers; none if one process serves alone."""
        names = worker_names(self.service.settings, "proxy")
        found = {int(name.rpartition("-")[2]): holder(lock_path(self.service.settings, name)) for name in names}
        return {number: pid for number, pid in found.items() if pid is not None}

    def restart(self) -> None:
        """kill -9 of all of it; the service's supervisor starts another one, which takes up the old one's specs."""
        pid = self.pid
        for one in (pid, *self.workers().values()):
            os.kill(one, signal.SIGKILL)
        if self._process is not None and self._process.pid == pid:
            self._process.wait(20)
        eventually(lambda: holder(lock_path(self.service.settings, "proxy")) not in (None, pid))
        eventually(self.answers)
        eventually(self.listens)

    def log(self) -> str:
        """What it has logged."""
        return self.log_path.read_text()

    # What it is told and tells

    def put(self, **changes: Any) -> None:
        """Changes the spec and waits until it is in effect; `pool` may be a dictionary of changes."""
        if isinstance(changes.get("pool"), dict):
            changes["pool"] = msgspec.structs.replace(self.spec.pool, **changes["pool"])
        self._generation += 1
        self.spec = msgspec.structs.replace(self.spec, generation=self._generation, **changes)
        self.call("put_proxy", msgspec.to_builtins(self.spec))
        eventually(lambda: self.status()["generation"] == self._generation)
        eventually(self.listens)

    def listens(self) -> bool:
        """Whether clients can connect."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def call(self, method: str, params: Any = None) -> Any:
        """One call over the private socket."""

        async def one() -> Any:
            client = RpcClient(self.service.settings.runtime / "proxy.sock")
            client.start()
            try:
                return await client.call(method, params)
            finally:
                await client.stop()

        return asyncio.run(one())

    def status(self) -> dict[str, Any]:
        """Its `ProxyStatus`."""
        found: dict[str, Any] = next(one for one in self.call("proxies") if one["proxy_id"] == "prx-1")
        return found

    def stats(self) -> dict[str, Any]:
        """Counters and gauges."""
        found: dict[str, Any] = self.call("stats", {"proxy_id": "prx-1"})
        return found

    def sessions(self) -> list[dict[str, Any]]:
        """Client sessions."""
        found: list[dict[str, Any]] = self.call("sessions", {"proxy_id": "prx-1"})
        return found

    def pins(self) -> list[str]:
        """Reasons of all sessions that are pinned now."""
        return sorted(reason for one in self.sessions() for reason in one["pinned"])

    # Clients

    def parameters(self, **options: Any) -> dict[str, Any]:
        """Connection parameters of a plain connection."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "app",
            "password": PASSWORD,
            "dbname": "postgres",
            "sslmode": "disable",
            "gssencmode": "disable",
            "connect_timeout": 20,
            **options,
        }

    def tls_parameters(self, **options: Any) -> dict[str, Any]:
        """The same over verified TLS."""
        return self.parameters(**{"sslmode": "verify-ca", "sslrootcert": str(self.ca_bundle), **options})

    def connect(self, *, autocommit: bool = True, **options: Any) -> psycopg.Connection[Any]:
        """A plain session."""
        return psycopg.connect(**self.parameters(**options), autocommit=autocommit)

    @contextmanager
    def raw(self, *, login: bool = True, **settings: str) -> Iterator[RawClient]:
        """A session that speaks the protocol itself."""
        client = RawClient.tcp(self.port)
        try:
            if login:
                client.log_in(**settings)
            yield client
        finally:
            client.close()

    @contextmanager
    def clients(self, count: int, **options: Any) -> Iterator[list[psycopg.Connection[Any]]]:
        """Several sessions."""
        opened: list[psycopg.Connection[Any]] = []
        try:
            for _ in range(count):
                opened.append(self.connect(**options))
            yield opened
        finally:
            for one in opened:
                one.close()


class RawClient:
    """A client that speaks the protocol itself: what it sends and gets is exactly what is on the wire."""

    def __init__(self, sock: socket.socket, *, timeout_s: float = 20.0) -> None:
        self.sock = sock
        self.sock.settimeout(timeout_s)
        self.process_id = 0
        self.secret = b""
        self.parameters: dict[str, str] = {}
        self._data = b""

    @classmethod
    def tcp(cls, port: int, host: str = "127.0.0.1") -> RawClient:
        """Connected, nothing sent."""
        sock = socket.create_connection((host, port), 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock)

    @classmethod
    def unix(cls, path: str) -> RawClient:
        """The same at a Unix socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        return cls(sock)

    def log_in(self, user: str = "app", password: str = PASSWORD, database: str = "postgres", **settings: str) -> None:
        """Logs in by SCRAM, cleartext or md5, up to the first ReadyForQuery."""
        from mainstay.protocol.postgres.scram import SCRAM, ScramClient, md5_password

        self.send(wire.startup({"user": user, "database": database, **settings}))
        scram = ScramClient(password, os.urandom(12).hex())
        while True:
            kind, body = self.read()
            if kind == "R":
                code = int.from_bytes(body[:4], "big")
                if code == 10:
                    first = scram.first()
                    self.send(wire.message(b"p", wire.cstring(SCRAM) + len(first).to_bytes(4, "big") + first))
                elif code == 11:
                    self.send(wire.message(b"p", scram.final(body[4:])))
                elif code == 5:
                    self.send(wire.message(b"p", wire.cstring(md5_password(user, password, body[4:8]))))
            elif kind == "S":
                name, value, _ = wire.two_strings(body)
                self.parameters[name.decode()] = value.decode()
            elif kind == "K":
                self.process_id, self.secret = int.from_bytes(body[:4], "big"), body[4:]
            elif kind == "E":
                raise AssertionError(wire.error_fields(body))
            elif kind == "Z":
                return

    def send(self, *data: bytes) -> None:
        """Bytes as they are."""
        self.sock.sendall(b"".join(data))

    def read(self) -> tuple[str, bytes]:
        """The next message: type and body. Raises `EOFError` at the end of the connection."""
        while len(self._data) < 5:
            self._more()
        (length,) = struct.unpack("!I", self._data[1:5])
        while len(self._data) < length + 1:
            self._more()
        kind, body = chr(self._data[0]), self._data[5 : length + 1]
        self._data = self._data[length + 1 :]
        return kind, body

    def _more(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError("the server closed the connection")
        self._data += data

    def until(self, *kinds: str) -> list[tuple[str, bytes]]:
        """Messages up to the first of one of these types, it included."""
        found = [self.read()]
        while found[-1][0] not in kinds:
            found.append(self.read())
        return found

    def ask(self, *data: bytes) -> list[tuple[str, bytes]]:
        """Sends and reads up to ReadyForQuery."""
        self.send(*data)
        return self.until("Z")

    def query(self, sql: str) -> list[tuple[str, bytes]]:
        """A simple query, answered."""
        return self.ask(wire.query(sql.encode()))

    def value(self, sql: str) -> str | None:
        """First column of the first row."""
        for kind, body in self.query(sql):
            if kind == "E":
                raise AssertionError(wire.error_fields(body))
            if kind == "D":
                length = int.from_bytes(body[2:6], "big", signed=True)
                return None if length < 0 else body[6 : 6 + length].decode()
        return None

    def silent(self, seconds: float = 0.2) -> bool:
        """Whether nothing more comes."""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self._more()
            return False
        except TimeoutError:
            return True
        except EOFError:
            return False
        finally:
            self.sock.settimeout(before)

    def close(self) -> None:
        """Without a Terminate."""
        self.sock.close()


def kinds(messages: list[tuple[str, bytes]]) -> str:
    """Types of the messages in a word."""
    return "".join(kind for kind, _body in messages)


def sqlstate(messages: list[tuple[str, bytes]]) -> str:
    """SQLSTATE of the first error, "" if there is none."""
    return next((wire.error_fields(body).get("C", "") for kind, body in messages if kind == "E"), "")


def bind(statement: bytes = b"", portal: bytes = b"", *values: bytes | None) -> bytes:
    """Bind with text parameters and text results."""
    body = portal + b"\0" + statement + b"\0" + struct.pack("!HH", 0, len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return wire.message(b"B", body + struct.pack("!H", 0))


def parse(sql: str, name: bytes = b"", *types: int) -> bytes:
    """Parse."""
    return wire.parse(name, sql.encode() + b"\0" + struct.pack(f"!H{len(types)}I", len(types), *types))


def describe(kind: bytes, name: bytes = b"") -> bytes:
    """Describe of a statement (`S`) or portal (`P`)."""
    return wire.message(b"D", kind + name + b"\0")


def execute(portal: bytes = b"", rows: int = 0) -> bytes:
    """Execute, of so many rows at most."""
    return wire.message(b"E", portal + b"\0" + struct.pack("!I", rows))


def close_message(kind: bytes, name: bytes = b"") -> bytes:
    """Close of a statement (`S`) or portal (`P`)."""
    return wire.message(b"C", kind + name + b"\0")


SYNC = wire.message(b"S")
FLUSH = wire.message(b"H")
TERMINATE = wire.message(b"X")
