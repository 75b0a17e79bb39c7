"""Letting clients in, on real sockets: pieces, deadlines, clients that leave meanwhile, TLS from the first byte."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from harness.proxy_parts import ANSWER, Parts, server_got
from harness.service import free_port
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.model.node import ServerCertificate
from mainstay.model.proxy import ClientPasswordAuthType, ProxyListener, ProxySpec, ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.scram import SCRAM, SCRAM_PLUS, ScramClient, md5_password
from mainstay.proxy.budget import RESERVED_CONNECTIONS
from mainstay.proxy.cancel_keys import Keys
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.listener import Listener
from mainstay.proxy.loop import run
from mainstay.proxy.pool import Pool
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.service import Proxy

REPORTED = {"server_version": "17.2", "TimeZone": "UTC", "application_name": "RDSProxy"}
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
USERS = (
    ProxyUser(username="app", password="secret"),
    ProxyUser(username="old", password="secret", client_password_auth_type=ClientPasswordAuthType.POSTGRES_MD5),
    ProxyUser(username="token", password="secret", iam_required=True),
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return CertificateAuthorities(tmp_path_factory.mktemp("ca"), SystemClock()).issue(("here",), ("127.0.0.1",))[0]


class Place:
    """A proxy that listens; its connections to the database are made in memory, when `database` allows it."""

    def __init__(self, directory: Path, certificate: ServerCertificate, admits: tuple[str, ...]) -> None:
        self.port = free_port()
        listener = ProxyListener(
            endpoint_id="prx-1", name="here", address="127.0.0.1", port=self.port, admits=admits,
            certificate=certificate,
        )  # fmt: skip
        self.spec = ProxySpec(
            proxy_id="prx-1", name="tested", account_id="1", region="eu-central-1", generation=1,
            engine_family="POSTGRESQL", listeners=(listener,), users=USERS,
        )  # fmt: skip
        self.token_allowed = asyncio.get_running_loop().create_future()
        self.tokens: list[str] = []
        self.proxy = Proxy(self.spec, directory, Keys(), self._verify)
        self.parts = Parts(budget=1)
        self.database = asyncio.Event()
        self.database.set()
        self.refused: LoginFailed | None = None
        target = self.proxy.target
        target.database.place = "/nowhere"
        target.max_connections = 1 + RESERVED_CONNECTIONS
        target.opener.connector = self._connect

    async def _verify(self, token: str, user: ProxyUser, listener: Listener) -> bool:
        assert user.username == "token" and listener.proxy_id == "prx-1"
        self.tokens.append(token)
        allowed: bool = await self.token_allowed
        return allowed

    async def _connect(self, pool: Pool) -> ServerConnection:
        await self.database.wait()
        if self.refused is not None:
            raise self.refused
        connection = self.parts.connection(pool)
        connection.parameters = dict(REPORTED)
        return connection

    @property
    def listener(self) -> Listener:
        return self.proxy._listeners["prx-1"]

    @property
    def counts(self) -> dict[str, int]:
        return self.proxy.metrics.totals()

    async def client(self, tls: ssl.SSLContext | None = None) -> Client:
        """A connection, TLS from its first byte if asked for."""
        options: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": "here"}
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        return Client(reader, writer)

    async def until_gone(self) -> None:
        """Nothing is left of anybody."""
        async with asyncio.timeout(60):
            while self.listener._logins or self.proxy.sessions or self.proxy.target.waiters:
                await asyncio.sleep(0.01)


class Client:
    """What a client does, step by step."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.one_by_one = False

    async def send(self, data: bytes) -> None:
        pieces = [data[at : at + 1] for at in range(len(data))] if self.one_by_one else [data]
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def read(self) -> tuple[str, bytes]:
        head = await self.reader.readexactly(5)
        return chr(head[0]), await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)

    async def error(self) -> dict[str, str]:
        """The error that is all there is before the end."""
        kind, body = await self.read()
        assert kind == "E" and await self.reader.read() == b""
        return wire.error_fields(body)

    async def prove(self, user: str, password: str, also: bytes = b"", **settings: str) -> None:
        """Everything that a client sends; `also` together with the last of it."""
        await self.send(wire.startup({"user": user, "database": "postgres", **settings}))
        scram = ScramClient(password, "client's nonce")
        while True:
            kind, body = await self.read()
            assert kind == "R", (kind, body)
            code = int.from_bytes(body[:4], "big")
            if code == 3:
                return await self.send(wire.message(b"p", wire.cstring(password)) + also)
            if code == 5:
                answer = wire.cstring(md5_password(user, password, body[4:]))
                return await self.send(wire.message(b"p", answer) + also)
            if code == 10:
                first = scram.first()
                sent = wire.cstring(SCRAM) + len(first).to_bytes(4, "big") + first
                await self.send(wire.message(b"p", sent))
            elif code == 11:
                return await self.send(wire.message(b"p", scram.final(body[4:])) + also)

    async def welcome(self) -> dict[str, str]:
        """Up to ReadyForQuery: the parameters."""
        found = {}
        while True:
            kind, body = await self.read()
            if kind == "S":
                name, value, _ = wire.two_strings(body)
                found[name.decode()] = value.decode()
            elif kind == "Z":
                return found
            else:
                assert kind in "RK", (kind, body)

    async def leave(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def served(
    directory: Path, certificate: ServerCertificate, admits: tuple[str, ...] = ("127.0.0.0/8",)
) -> AsyncIterator[Place]:
    place = Place(directory, certificate, admits)
    await place.proxy.apply(place.spec)
    try:
        async with asyncio.timeout(120):
            yield place
    finally:
        place.proxy.stop()
        await asyncio.sleep(0.01)


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("user", ["app", "old"])
def test_a_client_is_let_in(tmp_path: Path, certificate: ServerCertificate, user: str, one_by_one: bool) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            for expected in (REPORTED, REPORTED | {"application_name": "tested"}):
                client = await place.client()
                client.one_by_one = one_by_one
                names: dict[str, Any] = {} if expected is REPORTED else {"application_name": "tested"}
                await client.prove(user, "secret", **names)
                assert await client.welcome() == expected
                await client.leave()
                await place.until_gone()
            counted = ("Received", "SetupSucceeded", "Closed")
            assert [place.counts[f"ClientConnections{one}"] for one in counted] == [2, 2, 2]
            assert len(place.parts.opened) == 1, "the second is told what the first was"

    run(test())


def test_what_is_prepared_for_a_client_is_nobodys_until_it_has_proven_who_it_is(
    tmp_path: Path, certificate: ServerCertificate
) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            first = await place.client()
            await first.prove("app", "wrong")
            assert (await first.error())["C"] == "28P01"
            await first.leave()
            assert not place.proxy.target.pools, "who is not known has no pool made"
            known = await place.client()
            await known.prove("app", "secret")
            await known.welcome()
            liar = await place.client()
            await liar.prove("app", "wrong")  # now there is a pool, and its session has been prepared
            assert (await liar.error())["C"] == "28P01"
            await liar.leave()
            assert list(place.proxy.sessions) == list(place.proxy.keys.sessions) and len(place.proxy.sessions) == 1
            await known.leave()
            await place.until_gone()
            assert place.counts["ClientConnectionsClosed"] == 1

    run(test())


def test_a_session_is_prepared_anew_when_its_pool_has_changed_meanwhile(
    tmp_path: Path, certificate: ServerCertificate
) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            known = await place.client()
            await known.prove("app", "secret")
            await known.welcome()
            slow = await place.client()
            await slow.send(wire.startup({"user": "app", "database": "postgres"}))
            await slow.read()
            scram = ScramClient("secret", "client's nonce")
            first = scram.first()
            await slow.send(wire.message(b"p", wire.cstring(SCRAM) + len(first).to_bytes(4, "big") + first))
            _kind, body = await slow.read()
            place.proxy.target.pools.clear()
            place.proxy.target.max_connections += 1
            await slow.send(wire.message(b"p", scram.final(body[4:])))
            assert await slow.welcome() == REPORTED
            (pool,) = place.proxy.target.pools.values()
            assert pool in {session.pool for session in place.proxy.sessions.values()}
            for client in (known, slow):
                await client.leave()
            await place.until_gone()

    run(test())


def test_what_comes_with_the_proof_is_the_sessions(tmp_path: Path, certificate: ServerCertificate) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            place.database.clear()
            early, late = await place.client(), await place.client()
            await early.prove("app", "secret", wire.query(b"SELECT 1"))
            await early.read()
            place.database.set()
            assert await early.welcome() == REPORTED
            for client in (early, late):
                if client is late:
                    await client.prove("app", "secret", wire.query(b"SELECT 1"))
                    assert await client.welcome() == REPORTED
                (server,) = place.parts.opened
                while (asked := server_got(server)) == b"":
                    await asyncio.sleep(0.01)
                assert asked == wire.query(b"SELECT 1")
                server.data_received(ANSWER)
                assert [(await client.read())[0] for _ in range(3)] == ["T", "C", "Z"]
                await client.leave()

    run(test())


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        ("app", "wrong", "The password that was provided for the role app is wrong."),
        ("old", "wrong", "The password that was provided for the role old is wrong."),
        ("nobody", "secret", "no credentials for the role nobody"),
    ],
)
def test_wrong_proofs(tmp_path: Path, certificate: ServerCertificate, user: str, password: str, words: str) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            client = await place.client()
            await client.prove(user, password, wire.query(b"DROP TABLE all"))
            error = await client.error()
            assert words in error["M"] and error["C"] == "28P01" and error["S"] == "FATAL"
            await client.leave()
            await place.until_gone()
            assert place.counts["ClientConnectionsSetupFailedAuth"] == 1
            assert place.parts.opened == []

    run(test())


def test_strangers_are_told_before_they_say_anything(tmp_path: Path, certificate: ServerCertificate) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate, admits=("10.0.0.0/8",)) as place:
            client = await place.client()
            assert "no security group" in (await client.error())["M"]
            await client.leave()
            await place.until_gone()

    run(test())


def test_a_login_has_a_deadline_and_the_wait_for_the_database_another(
    tmp_path: Path, certificate: ServerCertificate
) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            place.database.clear()
            silent, waiting = await place.client(), await place.client()
            await waiting.prove("app", "secret")
            await waiting.read()
            while not place.proxy.target.waiters:
                await asyncio.sleep(0.01)
            (login,) = place.listener._logins
            place.proxy.tidy_slowly()
            assert list(place.listener._logins) == [login] and login.deadline_at > time.monotonic()
            login.deadline_at = 0.0
            place.proxy.tidy_slowly()
            assert await silent.reader.read() == b""
            place.database.set()
            assert await waiting.welcome() == REPORTED
            await silent.leave()
            await waiting.leave()
            await place.until_gone()

    run(test())


def test_who_leaves_while_waiting_for_the_database_leaves_nothing(
    tmp_path: Path, certificate: ServerCertificate
) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            place.database.clear()
            client = await place.client()
            await client.prove("app", "secret")
            await client.read()
            while not place.proxy.target.waiters:
                await asyncio.sleep(0.01)
            await client.leave()
            await place.until_gone()
            place.database.set()
            while not place.parts.opened:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            (server,) = place.parts.opened
            assert server.free and server.owner is None and not server.closed

    run(test())


def test_settings_are_asked_for_once_and_may_be_refused(tmp_path: Path, certificate: ServerCertificate) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            first = await place.client()
            await first.prove("app", "secret")
            assert await first.welcome() == REPORTED
            (server,) = place.parts.opened
            zoned = await place.client()
            await zoned.prove("app", "secret", TimeZone="asia/tokyo")
            await zoned.read()
            while b"asia/tokyo" not in server_got(server):
                await asyncio.sleep(0.01)
            server.data_received(wire.parameter_status("TimeZone", "Asia/Tokyo") + ANSWER)
            assert await zoned.welcome() == REPORTED | {"TimeZone": "Asia/Tokyo"}
            again = await place.client()
            await again.prove("app", "secret", TimeZone="asia/tokyo", application_name="again")
            assert await again.welcome() == REPORTED | {"TimeZone": "Asia/Tokyo", "application_name": "again"}
            assert server_got(server) == b""
            wrong = await place.client()
            await wrong.prove("app", "secret", TimeZone="nowhere")
            await wrong.read()
            while b"nowhere" not in server_got(server):
                await asyncio.sleep(0.01)
            server.data_received(wire.error_response("22023", "no such zone") + wire.ready_for_query(b"I"))
            error = await wrong.error()
            assert (error["C"], error["M"]) == ("22023", "Request returned an error: no such zone")
            for client in (first, zoned, again, wrong):
                await client.leave()
            await place.until_gone()

    run(test())


def test_an_engine_that_refuses_is_quoted(tmp_path: Path, certificate: ServerCertificate) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            place.refused = LoginFailed("3D000", 'database "postgres" does not exist')
            client = await place.client()
            await client.prove("app", "secret")
            await client.read()
            error = await client.error()
            assert error["C"] == "3D000"
            assert error["M"] == 'Request returned an error: database "postgres" does not exist'
            await client.leave()
            await place.until_gone()

    run(test())


@pytest.mark.parametrize("allowed", [True, False])
def test_tokens(tmp_path: Path, certificate: ServerCertificate, allowed: bool) -> None:
    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            plain = await place.client()
            await plain.send(wire.startup({"user": "token"}))
            assert "only with SSL" in (await plain.error())["M"]
            context = trusting()
            context.set_alpn_protocols(["postgresql"])
            client, leaver = await place.client(context), await place.client(context)
            await client.prove("token", "a token")
            await leaver.prove("token", "another one")
            while len(place.tokens) < 2:
                await asyncio.sleep(0.01)
            await leaver.leave()
            while len(place.listener._logins) > 1:
                await asyncio.sleep(0.01)
            place.token_allowed.set_result(allowed)
            if allowed:
                assert await client.welcome() == REPORTED
            else:
                assert "IAM authentication failed for the role token" in (await client.error())["M"]
            assert place.tokens == ["a token", "another one"]
            for one in (client, plain):
                await one.leave()
            await place.until_gone()

    run(test())


def test_tls_from_the_first_byte_needs_its_protocol_named(tmp_path: Path, certificate: ServerCertificate) -> None:
    """PostgreSQL documentation 55.2.11: without ALPN another protocol's client could be meant."""

    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            context = trusting()
            with suppress(OSError):
                unnamed = await place.client(context)
                assert await unnamed.reader.read() == b""
                await unnamed.leave()
            context.set_alpn_protocols(["postgresql"])
            client = await place.client(context)
            await client.send(wire.startup({"user": "app", "database": "postgres"}))
            kind, body = await client.read()
            assert (kind, body) == ("R", b"\0\0\0\x0a" + wire.cstring(SCRAM_PLUS) + wire.cstring(SCRAM) + b"\0")
            await client.leave()
            again = await place.client(context)
            await again.send(SSL_REQUEST)
            assert await again.reader.readexactly(1) == b"N", "not TLS inside TLS"
            await again.leave()
            await place.until_gone()

    run(test())


def test_the_longest_known_stranger_goes_first(
    tmp_path: Path, certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mainstay.proxy.listener.LOGINS_MAX", 2)

    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            clients = []
            for count in (1, 2, 2):
                clients.append(await place.client())
                await clients[-1].send(SSL_REQUEST)
                assert await clients[-1].reader.readexactly(1) == b"S"
                assert len(place.listener._logins) == count
            assert await clients[0].reader.read() == b""
            for client in clients:
                await client.leave()
            await place.until_gone()

    run(test())


def test_first_bytes_that_nobody_well_meaning_sends(tmp_path: Path, certificate: ServerCertificate) -> None:
    """Each ends in an error or in silence, and none in a defect of ours."""
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    password = wire.message(b"p", wire.cstring(SCRAM) + b"\0\0\0\x08n,,n=,r=x")
    words = [
        SSL_REQUEST, b"\0\0\0\x08\x04\xd2\x16\x30", wire.cancel_request(1, b"abcd"), wire.startup({"user": "app"}),
        wire.startup({"user": "old"}, minor=9), wire.startup({"user": "token"}), wire.startup({"user": "nobody"}),
        wire.startup({"user": "app", "_pq_.x": "y", "TimeZone": "UTC"}), password, password[:-3], b"p\0\0\0\4",
        wire.message(b"p", wire.cstring(SCRAM_PLUS) + b"\0\0\0\4p=x,"), wire.message(b"p", b"c=biws,r=x,p=AAAA"),
        wire.message(b"p"), wire.query(b"SELECT 1"), b"\x16\x03\x01\0\5hello", b"\0", b"\xff" * 9, b"GET / HTTP/1.1",
    ]  # fmt: skip

    async def one(place: Place) -> None:
        client = await place.client()
        with suppress(OSError):  # it may be gone already
            for _ in range(random_.randrange(1, 5)):
                data = random_.choice(words)
                if random_.random() < 0.3:
                    data = data[: random_.randrange(len(data) + 1)] + random_.randbytes(random_.randrange(4))
                await client.send(data)
                if random_.random() < 0.3:
                    await asyncio.sleep(0.001)
            client.writer.write_eof()
            await client.reader.read()
        await client.leave()

    async def test() -> None:
        async with served(tmp_path, certificate) as place:
            for _ in range(30):
                await asyncio.gather(*(one(place) for _ in range(10)))
            await place.until_gone()
            assert place.counts["ClientConnectionsSetupFailedAuth"] > 20
            good = await place.client()
            await good.prove("app", "secret")
            assert await good.welcome() == REPORTED
            await good.leave()

    with structlog.testing.capture_logs() as logged:
        run(test())
    assert {one["event"] for one in logged} == {"proxy.client_refused"}, f"seed {seed}"
