"""RDS Proxy in front of a real engine, with real clients: what applications do all day, and the limits of the pool."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
import psycopg
import pytest

from harness.proxy import PROXY_USERS, ProxyUnderTest, RawClient
from harness.service import PASSWORD, Service, eventually
from mainstay.model.proxy import ClientPasswordAuthType, PoolConfiguration, ProxyUser
from mainstay.protocol.postgres import wire

pytestmark = pytest.mark.engine


def backends(service: Service, instance: dict[str, Any]) -> int:
    """Sessions of clients that the engine has now, this one and Mainstay's own aside."""
    with service.connect(instance, application_name="counting") as session:
        row = session.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND usename IN ('app', 'second') AND application_name <> 'counting'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def narrow(proxy: ProxyUnderTest, connections: int, **pool: Any) -> None:
    """A budget of so many connections, of which none is open that is not used."""
    with proxy.connect() as session:
        allowed = int(session.execute("SHOW max_connections").fetchone()[0])  # type: ignore[index]
    percent = -(-100 * connections // allowed)
    proxy.put(pool={"max_connections_percent": percent, **pool})
    eventually(lambda: proxy.stats()["DatabaseConnections"] <= proxy.stats()["MaxDatabaseConnectionsAllowed"])


# Sharing


def test_many_clients_share_few_connections(
    proxy: ProxyUnderTest, service: Service, proxied_instance: dict[str, Any]
) -> None:
    narrow(proxy, 4)
    allowed = proxy.stats()["MaxDatabaseConnectionsAllowed"]
    with proxy.connect() as session:
        session.execute("TRUNCATE shared")

    def client(number: int) -> int:
        with proxy.connect(autocommit=False) as session:
            for turn in range(20):
                session.execute("INSERT INTO shared VALUES (%s, %s)", (number * 100 + turn, f"{number}"))
                found = session.execute("SELECT value FROM shared WHERE id = %s", (number * 100 + turn,)).fetchone()
                assert found == (str(number),)
                session.commit()
        return number

    most = 0
    with ThreadPoolExecutor(50) as threads:
        done = [threads.submit(client, number) for number in range(50)]
        while not all(one.done() for one in done):
            most = max(most, proxy.stats()["DatabaseConnections"])
            time.sleep(0.05)
        assert sorted(one.result() for one in done) == list(range(50))
    assert 1 <= most <= allowed
    assert backends(service, proxied_instance) <= allowed
    with proxy.connect() as session:
        assert session.execute("SELECT count(*) FROM shared").fetchone() == (1000,)


def test_the_budget_counts_users_and_databases_together(
    proxy: ProxyUnderTest, service: Service, proxied_instance: dict[str, Any]
) -> None:
    narrow(proxy, 3)
    allowed = proxy.stats()["MaxDatabaseConnectionsAllowed"]
    wanted: list[dict[str, Any]] = [
        {"user": user, "password": password, "dbname": database}
        for user, password in (("app", PASSWORD), ("second", "second-pass-1"))
        for database in ("postgres", "other")
    ]

    def client(number: int) -> None:
        options = wanted[number % 4]
        with proxy.connect(**options) as session:
            for _ in range(10):
                found = session.execute("SELECT current_user, current_database()").fetchone()
                assert found == (options["user"], options["dbname"])

    with ThreadPoolExecutor(16) as threads:
        done = [threads.submit(client, number) for number in range(16)]
        while not all(one.done() for one in done):
            assert proxy.stats()["DatabaseConnections"] <= allowed
            time.sleep(0.05)
        for one in done:
            one.result()
    assert backends(service, proxied_instance) <= allowed


def test_borrow_timeout_and_order_of_waiting(proxy: ProxyUnderTest) -> None:
    narrow(proxy, 1, connection_borrow_timeout_s=1.0)
    allowed = int(proxy.stats()["MaxDatabaseConnectionsAllowed"])
    with proxy.clients(allowed, autocommit=False) as holders, proxy.connect() as waiting:
        for one in holders:
            one.execute("SELECT 1")
        started = time.monotonic()
        with pytest.raises(
            psycopg.OperationalError, match="Timed-out waiting to acquire database connection"
        ) as refused:
            waiting.execute("SELECT 2")
        assert 0.9 < time.monotonic() - started < 10
        assert refused.value.sqlstate == "08000"
        for one in holders:
            one.commit()
        assert waiting.execute("SELECT 3").fetchone() == (3,)
    assert proxy.stats()["DatabaseConnectionsBorrowTimedOut"] >= 1

    proxy.put(pool={"connection_borrow_timeout_s": 30.0})
    served_at: dict[int, datetime] = {}
    with proxy.clients(allowed, autocommit=False) as holders, proxy.clients(8) as waiters:
        for one in holders:
            one.execute("SELECT 1")

        def wait(number: int) -> None:
            row = waiters[number].execute("SELECT clock_timestamp(), pg_sleep(0.01)").fetchone()
            assert row is not None
            served_at[number] = row[0]  # by the engine's clock: our own threads wake up in any order

        threads = []
        for number in range(8):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            eventually(lambda wanted=number + 1: proxy.stats()["ClientConnectionsWaiting"] == wanted)
        # One connection comes free; it goes from one to the next.
        holders[0].commit()
        for thread in threads:
            thread.join(30)
        for one in holders[1:]:
            one.commit()
    assert len(served_at) == 8
    if not proxy.workers():  # between workers there is no order
        assert sorted(served_at, key=lambda number: served_at[number]) == list(range(8))


def test_a_cancel_while_waiting_ends_the_wait(proxy: ProxyUnderTest) -> None:
    narrow(proxy, 1)
    allowed = int(proxy.stats()["MaxDatabaseConnectionsAllowed"])
    with proxy.clients(allowed, autocommit=False) as holders, proxy.connect() as waiting:
        for one in holders:
            one.execute("SELECT 1")

        def cancel() -> None:
            eventually(lambda: proxy.stats()["ClientConnectionsWaiting"] == 1)
            waiting.cancel_safe()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            waiting.execute("SELECT 1")
        thread.join()
        for one in holders:
            one.commit()
        assert waiting.execute("SELECT 1").fetchone() == (1,)


def test_idle_clients_are_told_and_go(proxy: ProxyUnderTest) -> None:
    proxy.put(idle_client_timeout_s=1.0)
    with proxy.connect() as session, proxy.connect(autocommit=False) as busy:
        busy.execute("SELECT 1")
        session.execute("SELECT 1")
        eventually(lambda: not proxy.sessions(), timeout_s=15)
        for one in (session, busy):  # nobody keeps a connection to the database by a transaction that is forgotten
            with pytest.raises(psycopg.OperationalError, match="Idle client timeout"):
                one.execute("SELECT 1")
        eventually(lambda: proxy.stats()["DatabaseConnectionsCurrentlyInTransaction"] == 0)


def test_sessions_of_a_read_only_endpoint_do_not_write(proxy: ProxyUnderTest) -> None:
    listeners = proxy.spec.listeners
    proxy.put(listeners=tuple(msgspec.structs.replace(one, read_only=True) for one in listeners))
    try:
        with proxy.connect() as session:
            assert session.info.parameter_status("default_transaction_read_only") == "on"
            for undo in ("SELECT 1", "RESET ALL", "DISCARD ALL"):
                session.execute(undo)
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    session.execute("CREATE TABLE written (i int)")
    finally:
        proxy.put(listeners=listeners)
    with proxy.connect() as session:
        assert session.execute("SHOW default_transaction_read_only").fetchone() == ("off",)


def test_who_waits_for_an_answer_is_not_idle_and_its_time_begins_then(proxy: ProxyUnderTest) -> None:
    proxy.put(idle_client_timeout_s=2.0)
    with proxy.connect() as session:
        for _ in range(3):
            session.execute("SELECT pg_sleep(3)")
            time.sleep(1.0)
        session.execute("SELECT 1")


def test_init_query_runs_on_every_connection(proxy: ProxyUnderTest) -> None:
    proxy.put(
        pool={"init_query": "SET work_mem = '5MB'; SET statement_timeout = '77s'", "max_idle_connections_percent": 0}
    )
    eventually(lambda: proxy.stats()["DatabaseConnections"] == 0, timeout_s=20)
    with proxy.connect() as session:
        assert session.execute("SHOW work_mem").fetchone() == ("5MB",)
        session.execute("SET work_mem = '9MB'")
        assert session.execute("SHOW work_mem").fetchone() == ("9MB",)
        assert session.execute("SHOW statement_timeout").fetchone() == ("77s",)


def test_an_init_query_that_fails_is_no_crash(proxy: ProxyUnderTest) -> None:
    proxy.put(pool={"init_query": "SELECT 1/0", "max_idle_connections_percent": 0, "connection_borrow_timeout_s": 1.0})
    eventually(lambda: proxy.stats()["DatabaseConnections"] == 0, timeout_s=20)
    with pytest.raises(psycopg.OperationalError), proxy.connect() as session:
        session.execute("SELECT 1")


# Who is let in


def test_wrong_credentials(proxy: ProxyUnderTest) -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"password": "wrong"}, "password that was provided for the role app is wrong"),
        ({"user": "nobody"}, "no credentials for the role nobody"),
        ({"dbname": "no-such-database"}, 'database "no-such-database" does not exist'),
        ({"user": "wrongly", "password": "not-what-the-engine-has"}, "Request returned an error"),
    )
    for options, words in refused:
        with pytest.raises(psycopg.OperationalError, match=words):
            proxy.connect(**options)
    with proxy.connect() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_tls(proxy: ProxyUnderTest) -> None:
    with psycopg.connect(**proxy.tls_parameters(channel_binding="require")) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)  # SCRAM-SHA-256-PLUS
        assert session.pgconn.ssl_in_use
    with psycopg.connect(**proxy.tls_parameters(channel_binding="disable")) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(**proxy.parameters(sslmode="prefer", gssencmode="prefer")) as session:
        assert session.pgconn.ssl_in_use
    if psycopg.pq.version() >= 170000:
        with psycopg.connect(**proxy.tls_parameters(sslnegotiation="direct")) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
    proxy.put(require_tls=True)
    with pytest.raises(psycopg.OperationalError, match="This RDS Proxy requires TLS connections"):
        proxy.connect()
    with psycopg.connect(**proxy.tls_parameters()) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_bytes_before_tls_are_refused(proxy: ProxyUnderTest) -> None:
    raw = RawClient.tcp(proxy.port)
    raw.send(b"\0\0\0\x08\x04\xd2\x16\x2f" + wire.startup({"user": "app"}))
    kind, body = raw.read()
    assert kind == "E"
    assert "unencrypted data" in wire.error_fields(body)["M"]
    with pytest.raises(EOFError):
        raw.read()
    raw.close()


def test_md5(proxy: ProxyUnderTest) -> None:
    proxy.put(
        users=(
            ProxyUser(username="app", password=PASSWORD, client_password_auth_type=ClientPasswordAuthType.POSTGRES_MD5),
        )
    )
    with proxy.connect() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="is wrong"):
        proxy.connect(password="wrong")


def test_protocol_versions(proxy: ProxyUnderTest) -> None:
    raw = RawClient.tcp(proxy.port)
    raw.send(wire.startup({"user": "app", "database": "postgres", "_pq_.what": "x"}, minor=7))
    kind, body = raw.read()
    assert kind == "v"
    assert int.from_bytes(body[:4], "big") in (2, 0x30002)
    assert b"_pq_.what\0" in body
    raw.close()
    if psycopg.pq.version() >= 180000:
        with psycopg.connect(**proxy.parameters(max_protocol_version="3.2"), autocommit=True) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
            timer = threading.Timer(0.3, session.cancel_safe)
            timer.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                session.execute("SELECT pg_sleep(20)")
            timer.join()


def test_replication_is_refused(proxy: ProxyUnderTest) -> None:
    with pytest.raises(psycopg.OperationalError, match="doesn't support streaming replication mode"):
        proxy.connect(replication="database")


def test_a_secret_changes_under_a_client(
    proxy: ProxyUnderTest, service: Service, proxied_instance: dict[str, Any]
) -> None:
    with proxy.connect(user="second", password="second-pass-1") as session:
        session.execute("SELECT 1")
        with service.connect(proxied_instance) as admin:
            admin.execute("ALTER ROLE second PASSWORD 'second-pass-2'")
        proxy.put(users=(PROXY_USERS[0], ProxyUser(username="second", password="second-pass-2")))
        session.execute("SELECT 1")
        with proxy.connect(user="second", password="second-pass-2") as fresh:
            fresh.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="is wrong"):
            proxy.connect(user="second", password="second-pass-1")
        with service.connect(proxied_instance) as admin:
            admin.execute("ALTER ROLE second PASSWORD 'second-pass-1'")


# Clients that leave, and long answers


def test_clients_that_vanish_leave_nothing_behind(
    proxy: ProxyUnderTest, service: Service, proxied_instance: dict[str, Any]
) -> None:
    mark = f"vanish_{secrets.token_hex(4)}"
    with service.connect(proxied_instance) as admin:
        admin.execute(f"CREATE TABLE {mark} (i int)")

    def gone(*requests: bytes, after: str = "", settle_s: float = 0.0) -> None:
        raw = RawClient.tcp(proxy.port)
        raw.log_in()
        raw.send(*requests)
        if after:
            raw.until(after)
        time.sleep(settle_s)
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.close()

    gone()
    gone(wire.query(b"BEGIN"), wire.query(f"INSERT INTO {mark} VALUES (1)".encode()), settle_s=0.3)
    gone(wire.query(f"SELECT pg_sleep(600) /* {mark} */".encode()), settle_s=0.5)
    gone(wire.query(f"COPY {mark} FROM STDIN".encode()), wire.message(b"d", b"7\n"), after="G")
    gone(wire.query(f"COPY {mark} FROM STDIN".encode()), wire.message(b"d", b"7\n")[:-1], after="G")
    gone(wire.query(b"SELECT repeat('x', 1000000) FROM generate_series(1, 100)"), settle_s=0.3)
    gone(wire.message(b"P", b"\0SELECT 1\0\0\0"), wire.message(b"H"), after="1")
    gone(b"Q\0\0\0\x40SELECT")
    gone(wire.query(b"SELECT pg_advisory_lock(4711)"), after="Z")
    gone(wire.query(b"LISTEN a"), wire.query(b"CREATE TEMP TABLE shared (i int)"), settle_s=0.3)
    gone(wire.query(b"SET search_path = pg_catalog; SET work_mem = '11MB'"), after="Z")
    eventually(lambda: not proxy.sessions())
    with service.connect(proxied_instance) as admin:
        # No statement goes on for nobody, no lock is held, no transaction is open.
        eventually(
            lambda: (
                admin.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    " AND backend_type = 'client backend' AND usename = 'app' AND state <> 'idle'"
                ).fetchone()
                == (0,)
            ),
            timeout_s=20,
        )
        assert admin.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
        assert admin.execute(f"SELECT count(*) FROM {mark}").fetchone() == (0,)
        admin.execute(f"DROP TABLE {mark}")
    for _ in range(20):
        with proxy.connect() as session:
            assert session.execute("SHOW work_mem").fetchone() != ("11MB",)
            session.execute("SELECT count(*) FROM shared")


@pytest.mark.slow
def test_long_rows_and_parameters(proxy: ProxyUnderTest) -> None:
    size = 50_000_000
    with proxy.connect() as session:
        found = session.execute("SELECT repeat('x', %s)", (size,)).fetchone()
        assert found is not None and len(found[0]) == size
        assert session.execute("SELECT length(%s::text)", ("y" * size,)).fetchone() == (size,)
        assert session.execute("SELECT length('" + "z" * size + "')").fetchone() == (size,)
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_slow_reader_holds_nobody_up(proxy: ProxyUnderTest) -> None:
    """The answer waits for its client; the proxy keeps little of it, and the connection is not lamed by it."""
    narrow(proxy, 1)
    allowed = int(proxy.stats()["MaxDatabaseConnectionsAllowed"])
    resident = _resident_kb(proxy.pid)
    slow = []
    for _ in range(allowed):
        raw = RawClient.tcp(proxy.port)
        raw.log_in()
        raw.send(wire.query(b"SELECT repeat('x', 1000000) FROM generate_series(1, 60)"))
        slow.append(raw)
    time.sleep(1.0)
    assert _resident_kb(proxy.pid) - resident < 40_000
    with proxy.connect() as other:
        thread_done: list[Any] = []
        thread = threading.Thread(target=lambda: thread_done.append(other.execute("SELECT 5").fetchone()))
        thread.start()
        for raw in slow:
            assert sum(1 for kind, _ in raw.until("Z") if kind == "D") == 60
        thread.join(30)
        assert thread_done == [(5,)]
        # Every connection is read from again, though the last bytes of an answer found a client that did not read.
        with proxy.clients(allowed, autocommit=False) as all_of_them:
            for one in all_of_them:
                assert one.execute("SELECT 6").fetchone() == (6,)
                one.execute("SELECT repeat('y', 100000) FROM generate_series(1, 20)").fetchall()
    for raw in slow:
        raw.close()


def test_the_end_of_an_answer_that_is_not_read_yet_does_not_lame_the_connection(proxy: ProxyUnderTest) -> None:
    narrow(proxy, 1)
    assert proxy.stats()["MaxDatabaseConnectionsAllowed"] == 1
    handed_over = 0
    with proxy.raw() as slow, proxy.connect() as other:
        # One of these answers ends in the proxy's own buffer: over for the engine, while its client does not read.
        for size in range(200_000, 8_000_000, 80_000):
            slow.send(wire.query(f"SELECT repeat('x', {size})".encode()))
            try:
                eventually(
                    lambda: proxy.stats()["DatabaseConnectionsCurrentlyBorrowed"] == 0, timeout_s=0.4, interval_s=0.02
                )
            except AssertionError:
                slow.until("Z")
                break
            assert other.execute("SELECT 1").fetchone() == (1,)
            handed_over += 1
            slow.until("Z")
        assert handed_over
        assert other.execute("SELECT 1").fetchone() == (1,)


def _resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_a_restart_serves_the_same_proxy(proxy: ProxyUnderTest) -> None:
    with suppress(psycopg.Error), proxy.connect() as session:
        session.execute("SELECT 1")
        proxy.restart()
    with proxy.connect() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "how", ["SET search_path TO 'pg_temp'", "SELECT set_config('search_path', 'pg_temp', false)", ""]
)
def test_a_search_path_of_temporary_tables_pins(proxy: ProxyUnderTest, how: str) -> None:
    narrow(proxy, 2)
    came_with: dict[str, Any] = {} if how else {"options": "-c search_path=pg_temp"}
    with proxy.connect(**came_with) as session, proxy.connect() as other:
        if how:
            session.execute(how)
        session.execute("CREATE TABLE unseen (i int)")
        found = other.execute("SELECT to_regclass('pg_temp.unseen')").fetchone()
        assert found == (None,), "the table of one client is in the session of another"
        session.execute("INSERT INTO unseen VALUES (1)")
        session.execute("DROP TABLE unseen")
        assert proxy.pins(), "the next table would be a temporary one too"
        session.execute("SET search_path TO public")
        eventually(lambda: not proxy.pins())


def test_text_that_the_engine_reads_otherwise_leaks_nothing(proxy: ProxyUnderTest) -> None:
    """The two disagree where a string ends: what follows it sets a parameter, unseen by the proxy."""
    narrow(proxy, 1)
    with proxy.connect(options="-c standard_conforming_strings=off") as session:
        session.execute(r"SELECT 'it\'; --'; SET work_mem = '7MB' --'")
        assert session.execute("SHOW work_mem").fetchone() == ("7MB",)
    with proxy.connect() as other:
        assert other.execute("SHOW work_mem").fetchone() != ("7MB",)


def test_a_long_text_holds_nobody_up(proxy: ProxyUnderTest) -> None:
    text = "SELECT length('" + "word, " * 4_000_000 + "')"
    with proxy.connect() as session, proxy.connect() as other, ThreadPoolExecutor() as threads:
        running = threads.submit(session.execute, text.encode())
        longest = 0.0
        while not running.done():
            began = time.monotonic()
            other.execute("SELECT 1")
            longest = max(longest, time.monotonic() - began)
        assert running.result().fetchone() == (24_000_000,)
    assert longest < 1, f"another client waited {longest:.1f} s"


def test_strict_pinning_pins_as_aws_does(proxy: ProxyUnderTest) -> None:
    proxy.put(pool=PoolConfiguration(strict_pinning=True, connection_borrow_timeout_s=30.0))
    for sql, words in (
        ("SET work_mem = '7MB'", "doesn't track"),
        ("RESET work_mem", "doesn't track"),
        ("PREPARE a AS SELECT 1", "prepared statement"),
        ("DISCARD ALL", "doesn't track"),
        ("CREATE TEMP TABLE t (i int)", "temporary object"),
        ("LISTEN a", "listener"),
        ("SELECT pg_advisory_lock(1), pg_advisory_unlock(1)", "advisory lock"),
        ("SELECT set_config('work_mem', '7MB', false)", "doesn't track"),
        (f"SELECT '{'x' * 16_400}'", "16384 byte limit"),
    ):
        with proxy.connect() as session:
            session.execute(sql)
            (pinned,) = [one["pinned"] for one in proxy.sessions()]
            assert any(words in reason for reason in pinned), (sql, pinned)
            session.execute("SELECT 1")
            assert proxy.pins(), "a pin of this kind lasts as long as the session"
    for sql in ("BEGIN; SET LOCAL work_mem = '7MB'; COMMIT", "SELECT pg_advisory_xact_lock(1)", "SELECT 1"):
        with proxy.connect() as session:
            session.execute(sql)
            assert proxy.pins() == []
