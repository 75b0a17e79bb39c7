"""Streams of bytes that nobody well-meaning sends: only protocol errors come of them, in bounded memory."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

import pytest
import structlog

from harness.proxy_parts import ANSWER, Parts, Transport, client_got, server_got, turn
from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.effects import effects
from mainstay.protocol.postgres.scram import ScramClient, ScramError, ScramServer, verifier
from mainstay.protocol.postgres.startup import first_packet
from mainstay.protocol.postgres.suspicion import suspicious
from mainstay.protocol.postgres.wire import WireError
from mainstay.proxy.engine_login import EngineLogin, LoginFailed
from mainstay.proxy.transport import Transport as ClientTransport

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS, SECONDS_FULL = 3.0, 120.0
TEXTS = [
    b"SELECT 1", b"SET a = 1", b"BEGIN", b"COMMIT", b"ROLLBACK TO a", b"RESET ALL", b"DISCARD ALL", b"LISTEN a",
    b"DEALLOCATE a", b"CREATE TEMP TABLE t (i int)", b"DO $$x$$", b"SELECT set_config('a', 'b', false)", b"",
    b"SELECT E'\\", b"/* /* */", b"$a$", b"PREPARE a AS SELECT 1", b"\xff\xfe",
]  # fmt: skip


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """No log lines: there would be millions."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def budget(pytestconfig: pytest.Config) -> float:
    return SECONDS_FULL if pytestconfig.getoption("--faults-full") else SECONDS


def client_message(random_: random.Random) -> bytes:
    name = random_.choice([b"", b"a", b"b", b"mainstay_1"])
    portal = random_.choice([b"", b"p"])
    text = random_.choice(TEXTS)
    return random_.choice(
        [
            wire.query(text), wire.parse(name, text + b"\0\0\0"), 
            wire.message(b"B", portal + b"\0" + name + b"\0\0\0\0\0\0\0"),
            wire.message(b"D", b"S" + name + b"\0"), wire.message(b"D", b"P" + portal + b"\0"),
            wire.message(b"E", portal + b"\0\0\0\0\0"), wire.message(b"C", b"S" + name + b"\0"), wire.message(b"S"),
            wire.message(b"S"), wire.message(b"H"), 
            wire.message(b"d", b"x" * random_.randrange(50)), wire.message(b"c"),
            wire.message(b"f", b"no\0"), wire.message(b"F", b"\0\0\0\0"),
        ]
    )  # fmt: skip


def server_message(random_: random.Random) -> bytes:
    return random_.choice(
        [
            ANSWER, wire.message(b"1"), wire.message(b"2"), wire.message(b"3"), wire.message(b"D", b"\0\0"),
            wire.message(b"C", b"COMMIT\0"), wire.message(b"C", b"ROLLBACK\0"), wire.message(b"C", b"SET\0"),
            wire.message(b"C"), wire.message(b"n"), wire.message(b"s"), wire.message(b"t", b"\0\0"), wire.message(b"I"),
            wire.ready_for_query(b"T"), wire.ready_for_query(b"E"), wire.ready_for_query(b"I"), wire.message(b"Z"),
            wire.message(b"E"), wire.message(b"E", b"Mno code\0\0"), wire.error_response("42601", "syntax"),
            wire.error_response("57P01", "gone", severity="FATAL"),
            wire.message(b"S", b"a\0b\0"), wire.message(b"S", b"a"),
            wire.message(b"N", b"\0"), wire.message(b"A", b"\0\0\0\0a\0b\0"), wire.message(b"G", b"\0\0\0"),
            wire.message(b"W", b"\0\0\0"), wire.message(b"V", b"\xff\xff\xff\xff"), wire.message(b"K", b""),
            wire.message(b"R", b"\0\0\0\0"), wire.message(b"D", b"\0\1\0\0\0\1x"),
        ]
    )  # fmt: skip


def mutated(random_: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out, doubled, or a length that lies."""
    changed = bytearray(data)
    for _ in range(random_.randrange(3)):
        if not changed:
            break
        position = random_.randrange(len(changed))
        how = random_.randrange(5)
        if how == 0:
            changed[position] = random_.randrange(256)
        elif how == 1:
            del changed[position : position + random_.randrange(1, 8)]
        elif how == 2:
            changed[position:position] = random_.randbytes(random_.randrange(8))
        elif how == 3:
            changed[position : position + 4] = random_.choice(
                [b"\0\0\0\0", b"\0\0\0\3", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\x80\0\0\0"]
            )
        else:
            changed += changed[position : position + 20]
    return bytes(changed)


def pieces(random_: random.Random, data: bytes) -> list[bytes]:
    """The stream as it may arrive: whole, in pieces, byte by byte."""
    how = random_.randrange(3)
    if how == 0:
        return [data]
    if how == 1:
        return [data[index : index + 1] for index in range(len(data))]
    size = random_.randrange(1, 40)
    return [data[index : index + size] for index in range(0, len(data), size)]


async def test_clients_and_engines_that_send_anything(pytestconfig: pytest.Config) -> None:
    """No exception leaves `data_received`, nobody gets what was meant for another, and nothing grows."""
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    deadline = time.monotonic() + budget(pytestconfig)
    rounds = failed = packets = 0
    while time.monotonic() < deadline:
        rounds += 1
        parts = Parts(budget=random_.choice([1, 2]), strict=random_.random() < 0.2)
        sessions = [parts.session(a=b"SET a = 2") if random_.random() < 0.3 else parts.session() for _ in range(3)]
        try:
            for _ in range(random_.randrange(1, 12)):
                session = random_.choice(sessions)
                messages = [client_message(random_) for _ in range(random_.randrange(1, 6))]
                packets += len(messages)
                data = b"".join(messages)
                if random_.random() < 0.3:
                    data = mutated(random_, data)
                for piece in pieces(random_, data):
                    if not session.closed:
                        session.data_received(piece)
                await turn()
                for connection in list(parts.target.connections):
                    messages = [server_message(random_) for _ in range(random_.randrange(0, 5))]
                    packets += len(messages)
                    answer = b"".join(messages)
                    if random_.random() < 0.2:
                        answer = mutated(random_, answer)
                    for piece in pieces(random_, answer):
                        if not connection.closed:
                            connection.data_received(piece)
                if random_.random() < 0.1:
                    random_.choice(sessions).connection_lost(None)
                if random_.random() < 0.1 and parts.target.connections:
                    random_.choice(list(parts.target.connections)).connection_lost(None)
                await turn()
                assert len(parts.target.connections) <= parts.target.budget
                assert all(len(one._pending) < 70_000 for one in sessions)
                owners = [one.server for one in sessions if one.server is not None]
                assert len(owners) == len(set(owners)), "one connection, two owners"
                assert all(one.server.owner is one for one in sessions if one.server is not None)
            failed += sum(one.closed for one in sessions)
        except BaseException as error:
            error.add_note(f"seed {seed}, round {rounds}")
            raise
        finally:
            for session in sessions:
                session.close()
                client_got(session)
            for connection in parts.opened:
                connection.close()
                server_got(connection)
            await turn()
    print(f"{packets} messages in {rounds} rounds")
    assert rounds > 20 and failed, "nothing was tried"


def test_first_packets(pytestconfig: pytest.Config) -> None:
    random_ = random.Random()
    packets = [
        wire.startup({"user": "u", "database": "d", "options": "-c a=b"}), wire.cancel_request(7, b"abcd"),
        b"\0\0\0\x08\x04\xd2\x16\x2f", wire.startup({"user": "u", "_pq_.x": "y", "replication": "true"}, minor=9),
    ]  # fmt: skip
    deadline = time.monotonic() + budget(pytestconfig) / 3
    count = 0
    while time.monotonic() < deadline:
        count += 500
        for _ in range(500):
            with suppress(WireError):
                first_packet(mutated(random_, random_.choice(packets)))
    print(f"{count} first packets")


def test_texts(pytestconfig: pytest.Config) -> None:
    """Any bytes can be read as SQL; what is not suspicious does nothing, whatever it is."""
    random_ = random.Random()
    words = [*TEXTS, b";", b"'", b'"', b"$$", b"$a$", b"--", b"\n", b"\r", b"/*", b"*/", b" ", b"E'", b"\\", b"(", b")"]
    words += [b"set", b"to", b"=", b"local", b"rollback", b"temp", b"create", b"into", b"U&'", b"discard", b"all", b"1"]
    deadline = time.monotonic() + budget(pytestconfig) / 3
    while time.monotonic() < deadline:
        for _ in range(200):
            sql = b"".join(random_.choice(words) + random_.choice([b"", b" "]) for _ in range(random_.randrange(30)))
            found = effects(mutated(random_, sql), strict=random_.random() < 0.5)
            assert isinstance(found, tuple)
            if not suspicious(sql):
                assert not any(effects(sql)), sql


def test_scram(pytestconfig: pytest.Config) -> None:
    random_ = random.Random()
    known = verifier("pencil", b"salt" * 4)
    deadline = time.monotonic() + budget(pytestconfig) / 3
    while time.monotonic() < deadline:
        for _ in range(100):
            server, client = ScramServer(known, "server"), ScramClient("pencil", "client")
            first = client.first()
            with suppress(ScramError):
                server.first(mutated(random_, first))
            challenge = ScramServer(known, "server").first(first)
            with suppress(ScramError):
                client.final(mutated(random_, challenge.replace(b"i=4096", b"i=1")))
            server.first(first)
            final = client_final(challenge)
            changed = mutated(random_, final)
            try:
                server.final(changed)
            except ScramError:
                continue
            # The last characters of base64 may differ in bits that mean nothing.
            assert (changed[:-2], changed[-1:]) == (final[:-2], final[-1:]), f"accepted: {final!r} -> {changed!r}"


def client_final(challenge: bytes) -> bytes:
    """The right answer."""
    return ScramClient("pencil", "client").final(challenge)


async def test_logins_to_a_hostile_engine(pytestconfig: pytest.Config) -> None:
    random_ = random.Random()
    words = [
        wire.authentication(0), wire.authentication(3), wire.authentication(5, b"salt"), wire.authentication(5),
        wire.authentication(10, b"SCRAM-SHA-256\0\0"), wire.authentication(10),
        wire.authentication(11, b"r=x,s=AAAA,i=1"),
        wire.authentication(11, b"r=x,s=AAAA,i=999999999"), wire.authentication(12, b"v="), wire.authentication(7),
        wire.message(b"R"), wire.message(b"S", b"a\0b\0"), wire.message(b"S", b"\xff\0\xff\0"), wire.message(b"S"),
        wire.message(b"K", b"abc"), wire.message(b"E"), wire.error_response("28P01", "no"), wire.message(b"N", b"x"),
        wire.ready_for_query(b"I"), wire.message(b"v", b"\0\0\0\0\0\0\0\0"), wire.message(b"D"), b"H\0", b"\0" * 9,
    ]  # fmt: skip
    deadline = time.monotonic() + budget(pytestconfig) / 3
    outcomes = set()
    count = 0
    while time.monotonic() < deadline:
        count += 1
        transport = Transport()
        login = EngineLogin(cast(ClientTransport, transport), "u", "p")
        task = asyncio.create_task(login.run("d"))
        await asyncio.sleep(0)
        data = b"".join(random_.choice(words) for _ in range(random_.randrange(1, 6)))
        for piece in pieces(random_, mutated(random_, data)):
            if not transport.closing:
                login.data_received(piece)
        login.failed(LoginFailed("08006", "gone"))
        try:
            await task
            outcomes.add("in")
        except LoginFailed as error:
            outcomes.add(error.sqlstate)
    print(f"{count} logins")
    assert {"in", "08P01", "28P01", "08006"} <= outcomes
