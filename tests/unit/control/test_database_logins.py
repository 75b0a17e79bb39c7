"""The listener that engines ask about IAM logins, over real sockets and TLS: who may ask, and what strangers can do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest

from harness.records import db_instance
from mainstay.control import database_logins
from mainstay.control.database_logins import DatabaseLogins
from mainstay.control.database_tokens import DatabaseTokens
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.rpc import RpcClient, RpcServer
from mainstay.host.vault import Vault
from mainstay.model.database_logins import LoginListener
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Permanent
from mainstay.model.node import (
    MasterUser,
    Node,
    NodeEndpoint,
    NodeLimits,
    NodeSpec,
    NodeTarget,
    ServerCertificate,
)
from mainstay.model.records import Scope
from mainstay.services.iam.principals import ensure_root_access_key
from mainstay.settings import Settings
from mainstay.store import SqliteStore

ACCOUNT = "123456789012"
SCOPE = Scope(ACCOUNT, "us-east-1")
SUCCESS, PROTOCOL_ERROR, NO_SUCH_METHOD, INVALID_CREDENTIALS = 0, 2, 7, 49
TIMEOUT_S = 10.0


def instance(name: str, *, iam: bool) -> DBInstance:
    return db_instance(name, iam_database_authentication_enabled=iam)


def node(name: str, address: str) -> Node:
    endpoint = NodeEndpoint(endpoint_id=name, address=address, port=5432, name=f"{name}.rds.internal", admits=())
    spec = NodeSpec(
        node_id=f"node-{name}", scope=SCOPE, dbi_resource_id=f"db-{name.upper()}", db_instance_identifier=name,
        availability_zone="us-east-1a", target=NodeTarget.RUNNING, engine="postgres", engine_version="17.5",
        listen_address="127.96.0.1", port=5432, endpoint=endpoint, parameters={}, require_tls=True,
        master=MasterUser("app", "v"), database="", certificate=ServerCertificate("c", "k", "ca"),
        limits=NodeLimits(memory_bytes=1, vcpus=1),
    )  # fmt: skip
    return Node(scope=SCOPE, spec=spec)


class World:
    """Three instances, one of them without IAM database authentication, and the listener."""

    ADDRESSES = {"one": "127.64.0.1", "two": "127.64.0.2", "off": "127.64.0.3"}

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "control").mkdir()
        self.settings = Settings(home=home)
        self.store, self.clock, self.randomness = SqliteStore(":memory:"), SystemClock(), SeededRandomness(1)
        self.vault = Vault(bytes(32), self.randomness)
        self.authorities = CertificateAuthorities(home / "ca", self.clock)
        with self.store.transaction() as tx:
            self.key = ensure_root_access_key(tx, self.vault, self.randomness, ACCOUNT)
            for name, address in self.ADDRESSES.items():
                tx.insert(instance(name, iam=name != "off"))
                tx.insert(node(name, address))
        self.tokens = DatabaseTokens(self.store, self.vault, self.clock, ACCOUNT)
        self.logins = self.made()

    def made(self) -> DatabaseLogins:
        return DatabaseLogins(self.settings, self.store, self.clock, self.randomness, self.authorities, self.tokens)

    @property
    def port(self) -> int:
        found = self.store.view().get(LoginListener, LoginListener.scope_of(ACCOUNT), "current")
        assert found is not None
        return found.port

    def token(self, name: str = "one", user: str = "alice", host: str = "") -> str:
        key, secret = self.key
        rds = boto3.client("rds", region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret)
        token: str = rds.generate_db_auth_token(host or self.ADDRESSES[name], 5432, user)
        return token

    def engine(self, name: str = "one") -> ssl.SSLContext:
        """TLS as the engine of this instance speaks it."""
        context = ssl.create_default_context(cadata=self.authorities.bundle_pem)
        issued, _ = self.authorities.issue((f"{name}.rds.internal",), (self.ADDRESSES[name],))
        for end, text in (("crt", issued.certificate_pem), ("key", issued.private_key_pem)):
            (self.home / f"{name}.{end}").write_text(text)
        context.load_cert_chain(self.home / f"{name}.crt", self.home / f"{name}.key")
        return context

    async def send(self, message: bytes, tls: ssl.SSLContext | None) -> bytes:
        """What the listener answers, b"" when it hangs up."""
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
            try:
                writer.write(message)
                return await reader.read(1000)
            finally:
                writer.close()

    async def bind(self, dn: bytes, password: bytes, tls: ssl.SSLContext, **more: Any) -> tuple[int, bytes]:
        answer = await self.send(bind(dn, password, **more), tls)
        assert (
            answer[:5] == b"\x30" + answer[1:2] + b"\x02\x01\x07" if answer[1] < 128 else answer[3:6] == b"\x02\x01\x07"
        )
        code_at = answer.index(b"\x0a\x01") + 2
        return answer[code_at], answer[code_at + 1 :]


def tlv(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x84)) + len(content).to_bytes(4, "big") + content


def bind(dn: bytes, password: bytes, *, version: int = 3, tag: int = 0x80) -> bytes:
    body = b"\x02\x01" + bytes((version,)) + tlv(4, dn) + tlv(tag, password)
    return tlv(0x30, b"\x02\x01\x07" + tlv(0x60, body))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.logins.start()
    yield made
    await made.logins.stop()
    made.store.close()


async def test_a_right_token(world: World) -> None:
    code, _ = await world.bind(b"dbuser:db-ONE/alice", world.token().encode(), world.engine())
    assert code == SUCCESS
    by_name = world.token(host="ONE.rds.internal").encode()
    assert (await world.bind(b"dbuser:db-ONE/alice", by_name, world.engine()))[0] == SUCCESS


@pytest.mark.parametrize("user", ["alice/bob", 'a,b="c"+\\#', "dbuser:db-TWO/alice", "ü", ""])
async def test_all_after_the_first_slash_is_the_user(world: World, user: str) -> None:
    token = world.token(user=user).encode()
    dn = f"dbuser:db-ONE/{user}".encode()
    assert (await world.bind(dn, token, world.engine()))[0] == SUCCESS
    code, why = await world.bind(b"dbuser:db-ONE/x", token, world.engine())
    assert code == INVALID_CREDENTIALS and b"not for 'x'" in why


@pytest.mark.parametrize(
    ("dn", "token", "why"),
    [
        (b"dbuser:db-ONE/alice", lambda w: w.token("two"), b"not the endpoint"),
        (b"dbuser:db-ONE/bob", lambda w: w.token(), b"for the user"),
        (b"dbuser:db-ONE/alice", lambda w: "", b"not an authentication token"),
        (b"dbuser:db-ONE/alice", lambda w: w.token() + "\xff", b"not ASCII"),
        (b"dbuser:db-ONE/\xff", lambda w: w.token(), b"not UTF-8"),
        (b"db-ONE/alice", lambda w: w.token(), b"cannot ask"),
        (b"", lambda w: w.token(), b"cannot ask"),
        (b"dbuser:db-NONE/alice", lambda w: w.token(), b"cannot ask"),
        (b"dbuser:db-TWO/alice", lambda w: w.token("two"), b"cannot ask"),
    ],
)
async def test_refusals(world: World, dn: bytes, token: Callable[[World], str], why: bytes) -> None:
    code, said = await world.bind(dn, token(world).encode("latin-1"), world.engine())
    assert code == INVALID_CREDENTIALS and why in said


async def test_an_instance_without_iam_database_authentication(world: World) -> None:
    code, why = await world.bind(b"dbuser:db-OFF/alice", world.token("off").encode(), world.engine("off"))
    assert code == INVALID_CREDENTIALS and b"not enabled" in why


async def test_nobody_asks_without_a_certificate_of_the_authority(world: World, tmp_path: Path) -> None:
    message = bind(b"dbuser:db-ONE/alice", world.token().encode())
    (tmp_path / "other").mkdir()
    stranger = CertificateAuthorities(tmp_path / "other" / "ca", world.clock)
    issued, _ = stranger.issue((), ("127.64.0.1",))
    (tmp_path / "x.pem").write_text(issued.certificate_pem + issued.private_key_pem)
    forged = ssl.create_default_context(cadata=world.authorities.bundle_pem)
    forged.load_cert_chain(tmp_path / "x.pem")
    for tls in (ssl.create_default_context(cadata=world.authorities.bundle_pem), forged, None):
        with suppress(OSError):  # hung up during or after the handshake
            assert await world.send(message, tls) in (b"",) or tls is None
    assert (await world.send(message, None))[:1] != b"\x30"


async def test_the_listener_proves_who_it_is(world: World) -> None:
    """Else whoever takes the port while control is away would be given tokens, and would let everybody in."""
    tls = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await world.send(b"", tls)
    named = world.engine()
    _, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=named, server_hostname="127.0.0.1")
    assert ("IP Address", "127.0.0.1") in writer.get_extra_info("ssl_object").getpeercert()["subjectAltName"]
    writer.close()


async def test_other_requests(world: World) -> None:
    tls, dn, token = world.engine(), b"dbuser:db-ONE/alice", world.token().encode()
    assert (await world.bind(dn, token, tls, version=2))[0] == PROTOCOL_ERROR
    assert (await world.bind(dn, token, tls, tag=0xA3))[0] == NO_SUCH_METHOD
    for message in (
        tlv(0x30, b"\x02\x01\x07" + tlv(0x63, b"")),  # a search
        tlv(0x30, b"\x02\x01\x07\x42\x00"),
        b"GET / HTTP/1.0\r\n\r\n",
        bind(dn, b"x" * database_logins.MESSAGE_BYTES_MAX),
    ):
        with suppress(ConnectionError):
            assert await world.send(message, tls) == b""


async def test_one_bind_a_connection(world: World) -> None:
    message = bind(b"dbuser:db-ONE/alice", world.token().encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=world.engine())
    async with asyncio.timeout(TIMEOUT_S):
        writer.write(message)
        assert (await reader.read(1000)).endswith(b"\x0a\x01\x00\x04\x00\x04\x00")
        writer.write(message)
        with suppress(ConnectionError):
            assert await reader.read(1000) == b""
    writer.close()


async def test_strangers_make_room_for_engines(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_logins, "CONNECTIONS_MAX", 4)
    tls, token = world.engine(), world.token().encode()
    crowd = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(9)]
    assert (await world.bind(b"dbuser:db-ONE/alice", token, tls))[0] == SUCCESS
    async with asyncio.timeout(1.0):  # far less than they would be borne otherwise
        assert await crowd[0][0].read(1) == b"", "the oldest went"
    for _, writer in crowd:
        writer.close()


async def test_silence_is_borne_for_a_while_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_logins, "LOGIN_TIMEOUT_S", 0.3)
    for tls in (None, world.engine()):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=tls)
        started = time.monotonic()
        async with asyncio.timeout(TIMEOUT_S):
            with suppress(OSError):
                assert await reader.read(1) == b""
        assert time.monotonic() - started < 5
        writer.close()


async def test_the_port_stays(world: World) -> None:
    port = world.port
    told = world.store.view().jobs()
    assert database_logins.PORTS[0] <= port <= database_logins.PORTS[1]
    await world.logins.stop()
    again = world.made()
    await again.start()
    assert world.port == port and world.store.view().jobs() == told
    assert (await world.bind(b"dbuser:db-ONE/alice", world.token().encode(), world.engine()))[0] == SUCCESS
    await again.stop()


async def test_a_port_that_was_taken_is_replaced_and_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_logins, "TAKEN_PAUSE_S", 0.01)
    port = world.port
    with world.store.transaction() as tx:
        for job in tx.jobs():
            tx.finish_job(job)
    await world.logins.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        again = world.made()
        await again.start()
        assert world.port != port
        asked = {job.subject for job in world.store.view().jobs()}
        assert asked == {"db:db-ONE", "db:db-TWO"}, "every engine that asks here gets the new port"
        assert (await world.bind(b"dbuser:db-ONE/alice", world.token().encode(), world.engine()))[0] == SUCCESS
        await again.stop()


async def test_the_certificate_is_renewed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.logins._context()
    assert world.logins._context() is first
    monkeypatch.setattr(database_logins, "CERTIFICATE_AGE_MAX_S", 0.0)
    assert world.logins._context() is not first


async def test_the_question_of_a_proxy(world: World) -> None:
    path = world.home / "control.sock"
    server = RpcServer(path, {"verify_database_token": world.tokens.verify_database_token})
    await server.start()
    client = RpcClient(path)
    client.start()
    question = {
        "token": world.token(host="proxy.internal"),
        "username": "alice",
        "resource_id": "prx-0123456789abcdef0",
        "hosts": ["127.64.0.9", "proxy.internal"],
        "port": 5432,
        "region": "us-east-1",
    }

    async def ask(**more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await client.call("verify_database_token", {**question, **more})
        return answer

    try:
        assert await ask() == {"allowed": True, "reason": ""}
        for wrong, why in (
            ({"username": "bob"}, "for the user 'alice'"),
            ({"hosts": ["127.64.0.9"]}, "not the endpoint"),
            ({"port": 5433}, "not the endpoint"),
            ({"region": "eu-west-1"}, "valid region"),
            ({"region": ""}, "name the region"),
            ({"token": "secret"}, "not an authentication token"),
        ):
            answer = await ask(**wrong)
            assert answer["allowed"] is False and why in answer["reason"]
        assert (await ask(resource_id="db-ONE", region=""))["allowed"] is True
        with pytest.raises(Permanent) as caught:
            await ask(token=None)
        assert str(question["token"]) not in str(caught.value)
    finally:
        await client.stop()
        await server.stop()


async def test_an_unforeseen_error_is_a_refusal_and_tells_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("X-Amz-Signature=abc")

    monkeypatch.setattr("mainstay.control.database_tokens.verify_token", broken)
    code, why = await world.bind(b"dbuser:db-ONE/alice", world.token().encode(), world.engine())
    assert code == INVALID_CREDENTIALS and b"internal error" in why and b"X-Amz" not in why


async def test_the_question_of_an_agent(world: World) -> None:
    async def ask(**more: Any) -> dict[str, Any]:
        question = {"resource_id": "db-ONE", "username": "alice", "token": world.token(), "over_tls": True}
        return await world.tokens.verify_instance_login({**question, **more})

    assert await ask() == {"allowed": True, "reason": ""}
    for wrong, why in (
        ({"over_tls": False}, "not over TLS"),
        ({"username": "bob"}, "for the user 'alice'"),
        ({"resource_id": "db-TWO"}, "not the endpoint"),
        ({"resource_id": "db-OFF"}, "not enabled"),
        ({"resource_id": "db-NONE"}, "not enabled"),
        ({"token": "secret"}, "not an authentication token"),
    ):
        answer = await ask(**wrong)
        assert answer["allowed"] is False and why in answer["reason"]
    with pytest.raises(Permanent) as caught:
        await ask(token=None)
    assert "X-Amz" not in str(caught.value)
