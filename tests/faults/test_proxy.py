"""RDS Proxy under faults: a failover behind it, cancels that race with hand-overs, clients that only hold on."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import psycopg
import pytest

from harness.pairs import MultiAZ
from harness.proxy import ProxyUnderTest, RawClient, kinds
from harness.service import Service, eventually
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.host.processes import raise_file_limit
from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres import wire

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

IDLE_CLIENTS, IDLE_CLIENTS_FULL = 60, 500
RACES, RACES_FULL = 1_500, 10_000
CHANGES, CHANGES_FULL = 12, 100


@pytest.fixture(scope="module")
def pair() -> Iterator[MultiAZ]:
    with Service() as service:
        yield MultiAZ(service, service.create_instance("m1", MultiAZ=True))


@pytest.fixture
def proxy(pair: MultiAZ) -> Iterator[ProxyUnderTest]:
    pair.await_in_sync()
    with ProxyUnderTest(pair.service, pair.instance, pool={"connection_borrow_timeout_s": 60.0}) as proxy:
        yield proxy
        log = proxy.log()
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]


class Writer(threading.Thread):
    """Inserts one row after the other on one connection, which it never opens again."""

    def __init__(self, proxy: ProxyUnderTest, number: int) -> None:
        super().__init__()
        self.connection = proxy.connect()
        self.number = number
        self.acknowledged: set[tuple[int, int]] = set()
        self.errors: list[str | None] = []
        self.broken: BaseException | None = None
        self.last_at = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        sequence = 0
        try:
            while not self.ended.is_set():
                sequence += 1
                try:
                    self.connection.execute("INSERT INTO kept VALUES (%s, %s)", (self.number, sequence))
                except psycopg.OperationalError as error:
                    self.errors.append(error.sqlstate)
                    if self.connection.closed:
                        raise
                else:
                    self.acknowledged.add((self.number, sequence))
                    self.last_at = time.monotonic()
        except BaseException as error:
            self.broken = error


def test_failover_behind_the_proxy(pair: MultiAZ, proxy: ProxyUnderTest, pytestconfig: pytest.Config) -> None:
    """Nobody is disconnected; what was under way is told once and truly; nothing that was acknowledged is lost."""
    pair.make_table()
    count = IDLE_CLIENTS_FULL if pytestconfig.getoption("--faults-full") else IDLE_CLIENTS
    with ExitStack() as stack:
        idle = stack.enter_context(proxy.clients(count))
        for one in idle:
            one.execute("SET work_mem = '7MB'")
        (committing, in_statement, in_transaction, between, pinned) = stack.enter_context(proxy.clients(5))
        pinned.execute("CREATE TEMP TABLE mine (i int)")
        committing.execute(
            "CREATE TABLE slow (i int); CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM pg_sleep(60); RETURN NULL; END$$;"
            " CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION slowly()"
        )
        found: dict[str, str | None] = {}

        def run(name: str, connection: psycopg.Connection[Any], *statements: str) -> threading.Thread:
            def body() -> None:
                try:
                    for sql in statements:
                        connection.execute(sql)
                    found[name] = "no error"
                except psycopg.Error as error:
                    found[name] = error.sqlstate

            thread = threading.Thread(target=body)
            thread.start()
            return thread

        between.execute("BEGIN")
        between.execute("INSERT INTO kept VALUES (1000, 1)")
        threads = [
            run("committing", committing, "BEGIN", "INSERT INTO slow VALUES (1)", "COMMIT"),
            run("in_statement", in_statement, "SELECT pg_sleep(60)"),
            run("in_transaction", in_transaction, "BEGIN", "SELECT pg_sleep(60)"),
        ]
        writers = [Writer(proxy, number) for number in range(4)]
        for writer in writers:
            writer.start()
        eventually(lambda: all(len(writer.acknowledged) > 20 for writer in writers))
        time.sleep(0.5)

        before = pair.await_in_sync()
        killed_at = pair.kill(before.primary)
        # What is asked for while there is no primary waits for the new one; what was sent to the old one in its last
        # moment is told that its outcome is not known.
        with suppress(psycopg.errors.TransactionResolutionUnknown):
            idle[0].execute("SELECT 1")
        assert idle[0].execute("SELECT current_setting('work_mem')").fetchone() == ("7MB",)
        pair.await_epoch(before.epoch + 1)
        eventually(lambda: all(writer.broken or writer.last_at > killed_at + 0.1 for writer in writers))
        assert [(writer.broken, writer.errors) for writer in writers if writer.broken] == []
        gap = min(writer.last_at for writer in writers) - killed_at
        for writer in writers:
            writer.ended.set()
        for thread in (*threads, *writers):
            thread.join(30)

        assert found == {"committing": "08007", "in_statement": "08007", "in_transaction": "08006"}
        for connection in (committing, in_statement, in_transaction):
            assert connection.execute("SELECT 1").fetchone() == (1,), "the session goes on"
        with pytest.raises(psycopg.OperationalError) as told:
            between.execute("INSERT INTO kept VALUES (1000, 2)")
        assert told.value.sqlstate == "08006"
        assert between.execute("SELECT count(*) FROM kept WHERE session = 1000").fetchone() == (0,)
        with pytest.raises(psycopg.OperationalError):
            pinned.execute("SELECT 1")
        assert pinned.closed, "what it had on its connection is gone: it must know"

        for one in idle:
            assert one.execute("SELECT current_setting('work_mem')").fetchone() == ("7MB",)
        for writer in writers:
            assert writer.broken is None, writer.broken
            assert set(writer.errors) <= {"08006", "08007"} and len(writer.errors) <= 2, writer.errors
        acknowledged = set().union(*(writer.acknowledged for writer in writers))
        rows = set(idle[0].execute("SELECT session, sequence FROM kept").fetchall())
        assert acknowledged <= rows
        print(f"{count} idle clients, {len(acknowledged)} commits, all there; writes went on after {gap:.2f} s")
        for sql in ("DROP TABLE slow", "DROP FUNCTION slowly"):
            idle[0].execute(sql)
        for writer in writers:
            writer.connection.close()


def test_a_restarted_primary_without_failover(pair: MultiAZ, proxy: ProxyUnderTest) -> None:
    """An administrator's pg_terminate_backend is an error to one statement, not the end of a session."""
    with proxy.connect() as one, proxy.connect() as admin:
        thread_found: list[str | None] = []

        def sleep() -> None:
            try:
                one.execute("SELECT pg_sleep(60)")
            except psycopg.Error as error:
                thread_found.append(error.sqlstate)

        thread = threading.Thread(target=sleep)
        thread.start()
        eventually(
            lambda: (
                admin.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE query = 'SELECT pg_sleep(60)' AND pid <> pg_backend_pid()"
                ).fetchone()
                == (1,)
            )
        )
        thread.join(30)
        assert thread_found == ["08007"]
        assert one.execute("SELECT 1").fetchone() == (1,)


def test_a_cancel_never_hits_another_client(proxy: ProxyUnderTest, pytestconfig: pytest.Config) -> None:
    """Clients cancel their own short statements at any moment, while connections go from hand to hand."""
    races = RACES_FULL if pytestconfig.getoption("--faults-full") else RACES
    proxy.put(pool={"max_connections_percent": 5})
    ended = threading.Event()
    failures: list[BaseException] = []
    counts: Counter[str] = Counter()

    def victim() -> None:
        with proxy.connect() as session:
            while not ended.is_set():
                assert session.execute("SELECT pg_sleep(0.001), 7").fetchone()[1] == 7  # type: ignore[index]
                counts["victims ran"] += 1

    def attacker() -> None:
        with proxy.raw() as session:
            for _ in range(races // 3):
                session.send(wire.query(b"SELECT pg_sleep(0.002)"))
                time.sleep(random.random() * 0.01)
                # The request comes before, in, or after the answer; every second time the client goes on at once.
                canceller = RawClient.tcp(proxy.port)
                canceller.send(wire.cancel_request(session.process_id, session.secret))
                counts["cancelled" if "E" in kinds(session.until("Z")) else "too late"] += 1
                if random.random() < 0.5:
                    with suppress(EOFError, ConnectionError):
                        canceller.read()
                canceller.close()

    def kept(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)

    victims = [threading.Thread(target=kept, args=(victim,)) for _ in range(6)]
    attackers = [threading.Thread(target=kept, args=(attacker,)) for _ in range(3)]
    for thread in (*victims, *attackers):
        thread.start()
    for thread in attackers:
        thread.join()
    ended.set()
    for thread in victims:
        thread.join(30)
    print(dict(counts), proxy.stats()["MaxDatabaseConnectionsAllowed"], "connections")
    assert failures == []
    assert counts["victims ran"] > races / 10
    assert min(counts["cancelled"], counts["too late"]) > races / 50, "the race must be won by both sides"


def test_clients_that_only_hold_on(proxy: ProxyUnderTest, pytestconfig: pytest.Config) -> None:
    """Connections that never log in do not keep anybody out."""
    count = 1500
    raise_file_limit()
    held: list[socket.socket] = []
    try:
        for number in range(count):
            one = socket.create_connection(("127.0.0.1", proxy.port), 10)
            with suppress(OSError):
                one.sendall(
                    (
                        b"",
                        b"\0\0\0\x08\x04\xd2\x16\x2f",
                        wire.startup({"user": "app"})[:7],
                        wire.startup({"user": "app", "database": "postgres"}),
                    )[number % 4]
                )
            held.append(one)
            if number % 100 == 0:
                with proxy.connect() as session:
                    assert session.execute("SELECT 1").fetchone() == (1,)
        with proxy.connect() as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
        assert len(os.listdir(f"/proc/{proxy.pid}/fd")) < 1100, "not more than a thousand are kept"
    finally:
        for one in held:
            one.close()
    eventually(lambda: len(os.listdir(f"/proc/{proxy.pid}/fd")) < 100)


def test_garbage_beside_good_clients(proxy: ProxyUnderTest, pytestconfig: pytest.Config) -> None:
    """Connections that send anything end; the others notice nothing, and nothing is left of them."""
    connections = 3_000 if pytestconfig.getoption("--faults-full") else 400
    ended = threading.Event()
    failures: list[BaseException] = []

    def good() -> None:
        try:
            with proxy.connect() as session:
                number = 0
                while not ended.is_set():
                    number += 1
                    assert session.execute("SELECT %s::int", (number,), prepare=True).fetchone() == (number,)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=good) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(connections):
            with suppress(OSError, EOFError, TimeoutError, AssertionError), proxy.raw(login=number % 2 == 0) as raw:
                raw.sock.settimeout(0.1)
                messages = wire.query(b"SELECT 1") + wire.parse(b"a", b"SELECT 1\0\0\0") + wire.message(b"S")
                data = bytearray(wire.startup({"user": "app"}) if number % 2 else messages * 3)
                for _ in range(random.randrange(1, 6)):
                    data[random.randrange(len(data))] = random.randrange(256)
                raw.send(bytes(data))
                if number % 3 == 0:
                    raw.read()
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    eventually(lambda: not proxy.sessions())
    eventually(lambda: proxy.stats()["DatabaseConnectionsCurrentlyBorrowed"] == 0)
    eventually(lambda: len(os.listdir(f"/proc/{proxy.pid}/fd")) < 150)


def test_changes_of_a_proxy_under_load(pair: MultiAZ, proxy: ProxyUnderTest, pytestconfig: pytest.Config) -> None:
    """Secrets, certificates and the size of the pool change again and again: no statement fails.

    The engine has a new password before the proxy has, as when a secret is rotated, while the pool must grow.
    """
    changes = CHANGES_FULL if pytestconfig.getoption("--faults-full") else CHANGES
    authorities = CertificateAuthorities(pair.service.home / "proxy-test-ca", SystemClock())
    ended = threading.Event()
    failures: list[BaseException] = []
    done: Counter[str] = Counter()

    def stays() -> None:
        with proxy.connect(user="changing", password="changed-0") as session:
            while not ended.is_set():
                session.execute("SELECT pg_sleep(0.002)")
                done["stays"] += 1

    def comes_and_goes() -> None:
        while not ended.is_set():
            with psycopg.connect(**proxy.tls_parameters()) as session:
                session.execute("SELECT 1")
                done["comes and goes"] += 1

    def watched(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    with pair.connect() as admin:
        admin.execute("DROP ROLE IF EXISTS changing")
        admin.execute("CREATE ROLE changing LOGIN PASSWORD 'changed-0'")
    users = proxy.spec.users
    proxy.put(users=(*users, ProxyUser(username="changing", password="changed-0")))
    threads = [threading.Thread(target=watched, args=(work,)) for work in [stays] * 12 + [comes_and_goes] * 2]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: done["stays"] > 100 and done["comes and goes"] > 2)
        for number in range(1, changes + 1):
            before = done["stays"]
            if number % 3 == 0:
                # Connections go, and the next ones are opened with a password that the engine no longer takes.
                proxy.put(pool={"max_connections_percent": 2, "max_idle_connections_percent": 1})
                eventually(lambda: failures or proxy.stats()["DatabaseConnections"] <= 2)
                with pair.connect() as admin:
                    admin.execute(f"ALTER ROLE changing PASSWORD 'changed-{number}'")
                proxy.put(pool={"max_connections_percent": 50, "max_idle_connections_percent": 50})
                time.sleep(0.3)
                proxy.put(users=(*users, ProxyUser(username="changing", password=f"changed-{number}")))
            elif number % 3 == 1:
                (listener,) = proxy.spec.listeners
                fresh = authorities.issue((listener.name,), (listener.address,))[0]
                proxy.put(listeners=(msgspec.structs.replace(listener, certificate=fresh),))
            else:
                proxy.put(pool={"max_connections_percent": 10 + number % 40})
            eventually(lambda: failures or done["stays"] > before + 20)  # noqa: B023 - called at once
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)
        proxy.put(users=users)
        with pair.connect() as admin:
            admin.execute("DROP ROLE changing")
    assert failures == []


def test_kill_of_the_proxy_leaves_nothing(pair: MultiAZ, proxy: ProxyUnderTest) -> None:
    """Its clients are disconnected; the engine has no session and no lock of theirs any more, and it is there again."""
    with ExitStack() as stack:
        clients = stack.enter_context(proxy.clients(20))
        for number, one in enumerate(clients[:5]):
            one.execute(f"SELECT pg_advisory_lock({number})")
        os.kill(proxy.pid, signal.SIGSTOP)
        os.kill(proxy.pid, signal.SIGCONT)
        proxy.restart()
        with pair.connect() as admin:
            eventually(
                lambda: admin.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
            )
        with pytest.raises(psycopg.OperationalError):
            clients[0].execute("SELECT 1")
    with proxy.connect() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
