"""The protocol through RDS Proxy, message by message: settings, prepared statements, pipelines, COPY, pins, cancels."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from harness.proxy import (
    FLUSH,
    SYNC,
    ProxyUnderTest,
    RawClient,
    bind,
    close_message,
    describe,
    execute,
    kinds,
    parse,
    sqlstate,
)
from harness.service import eventually
from mainstay.protocol.postgres import wire

pytestmark = pytest.mark.engine


def one_connection(proxy: ProxyUnderTest) -> None:
    """All clients share one server connection, so that each finds what another has left."""
    proxy.put(pool={"max_connections_percent": 1})
    eventually(lambda: proxy.stats()["DatabaseConnections"] <= 1)
    assert proxy.stats()["MaxDatabaseConnectionsAllowed"] in (0, 1)


def row(answer: Any) -> Any:
    found = answer.fetchone()
    return None if found is None else found[0]


# Settings


def test_settings_go_with_their_client(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.connect(application_name="one", options="-c work_mem=3MB -c search_path=pg_catalog,public") as one:
        with proxy.connect() as two:
            assert row(one.execute("SHOW work_mem")) == "3MB"
            default = row(two.execute("SHOW work_mem"))
            assert default != "3MB"
            one.execute("SET work_mem = '7MB' -- and a comment")
            one.execute("SET statement_timeout = 12345; SET TIME ZONE 'Asia/Tokyo'")
            two.execute("SET SESSION \"work_mem\" TO '9MB'")
            assert row(two.execute("SHOW statement_timeout")) != "12345ms"
            for _ in range(3):
                assert row(one.execute("SHOW work_mem")) == "7MB"
                assert row(two.execute("SHOW work_mem")) == "9MB"
                assert row(one.execute("SHOW timezone")) == "Asia/Tokyo"
                assert row(one.execute("SHOW application_name")) == "one"
            two.execute("RESET work_mem")
            assert row(two.execute("SHOW work_mem")) == default
            one.execute("RESET work_mem")
            assert row(one.execute("SHOW work_mem")) == "3MB", "RESET brings back what the client has started with"
            one.execute("RESET ALL")
            assert row(two.execute("SHOW search_path")) == '"$user", public'
            assert row(one.execute("SHOW search_path")) == "pg_catalog,public"
            one.execute("SET work_mem = '8MB'")
            one.execute("DISCARD ALL")
            assert row(two.execute("SHOW work_mem")) == default
            assert row(one.execute("SHOW work_mem")) == "3MB"
            assert row(one.execute("SHOW application_name")) == "one"
            assert proxy.pins() == []


@pytest.mark.parametrize("prepared", [False, True])
def test_settings_and_transactions(proxy: ProxyUnderTest, prepared: bool) -> None:
    one_connection(proxy)
    with proxy.connect() as one, proxy.connect() as two:
        default = row(two.execute("SHOW work_mem"))

        def run(*statements: str) -> None:
            for sql in statements:
                one.execute(sql, (), prepare=prepared, binary=prepared)

        def seen() -> tuple[Any, Any]:
            return row(one.execute("SHOW work_mem")), row(two.execute("SHOW work_mem"))

        run("BEGIN", "SET work_mem = '7MB'", "COMMIT")
        assert seen() == ("7MB", default)
        run("BEGIN", "SET work_mem = '8MB'", "ROLLBACK")
        assert seen() == ("7MB", default)
        run("BEGIN", "SET LOCAL work_mem = '8MB'", "COMMIT")
        assert seen() == ("7MB", default)
        run("BEGIN", "SET work_mem = '8MB'")
        with pytest.raises(psycopg.Error):
            run("SELECT 1/0")
        run("COMMIT")
        assert seen() == ("7MB", default)
        with pytest.raises(psycopg.Error):
            run("SET work_mem = 'nonsense'")
        assert seen() == ("7MB", default)
        run("BEGIN", "SAVEPOINT a", "SET work_mem = '8MB'", "ROLLBACK TO a", "COMMIT")
        assert row(one.execute("SHOW work_mem")) == "7MB"
    with proxy.connect() as three:
        assert row(three.execute("SHOW work_mem")) == default


def test_a_setting_by_a_portal_that_is_not_read_to_its_end(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two:
        default = two.value("SHOW work_mem")
        asked = parse("SELECT set_config('work_mem', '7MB', false)")
        assert kinds(one.ask(asked, bind(), execute(rows=1), SYNC)) == "12DsZ"
        assert two.value("SHOW work_mem") == default != "7MB"
        assert one.value("SHOW work_mem") == "7MB"
        assert proxy.pins() == []


def test_texts_that_hide_what_they_set(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.connect() as other:
        default = row(other.execute("SHOW work_mem"))
    for sql in (
        "/* a */ SET work_mem = '7MB'",
        "-- a\nSET work_mem = '7MB'",
        "-- a\rSET work_mem = '7MB'",
        "SELECT 1; SELECT ';'; SET work_mem = '7MB'",
        "SELECT $a$;$a$; SET work_mem = '7MB'; SELECT $$x$$",
        "SELECT E'\\''; SET work_mem = '7MB'; SELECT E'\\''",
        "SELECT set_config('work_mem', '7MB', false)",
        "SELECT pg_catalog.\"set_config\"('work_mem', '7MB', false)",
        "UPDATE pg_settings SET setting = '7168' WHERE name = 'work_mem'",
        "CREATE OR REPLACE FUNCTION atomic() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SET work_mem = '7MB'",
        "DO $$BEGIN SET work_mem = '7MB'; END$$",
        "DO $$BEGIN PERFORM set_config('work_mem', '7MB', false); END$$",
        "DO $$BEGIN EXECUTE 'SET work_mem = ''7MB'''; END$$",
    ):
        with proxy.connect() as one:
            one.execute(sql)
            assert row(one.execute("SHOW work_mem")) == "7MB", sql
            if not proxy.pins():
                with proxy.connect() as other:
                    assert row(other.execute("SHOW work_mem")) == default, sql
                assert row(one.execute("SHOW work_mem")) == "7MB", sql
        eventually(lambda: not proxy.sessions())
        with proxy.connect() as other:
            assert row(other.execute("SHOW work_mem")) == default, sql


def test_a_setting_that_the_engine_refuses(proxy: ProxyUnderTest) -> None:
    with pytest.raises(psycopg.OperationalError, match="nonsense"):
        proxy.connect(options="-c nonsense=1")
    with pytest.raises(psycopg.OperationalError, match="invalid value"):
        proxy.connect(options="-c work_mem=zero")
    with proxy.connect(application_name="Elastic ünd 'E'") as session:
        assert row(session.execute("SHOW application_name")) in (
            "Elastic ünd 'E'",
            "Elastic ??nd 'E'",
            "Elastic \\xc3\\xbcnd 'E'",
        )
    with proxy.connect(application_name="Elasticsearch'E") as session:
        assert session.info.parameter_status("application_name") == "Elasticsearch'E"
        assert row(session.execute("SHOW application_name")) == "Elasticsearch'E"


# Prepared statements


def test_prepared_statements_on_many_connections(proxy: ProxyUnderTest) -> None:
    with proxy.clients(6, autocommit=False) as holders:
        with proxy.connect() as one:
            for turn in range(30):
                # Other clients take connections meanwhile, so that this one gets another each time.
                holders[turn % 6].execute("SELECT 1")
                assert one.execute("SELECT %s::int + 1", (turn,), prepare=True).fetchone() == (turn + 1,)
                if turn % 3 == 0:
                    holders[(turn * 5) % 6].rollback()
            assert one.execute("SELECT count(*) FROM pg_prepared_statements WHERE from_sql").fetchone() == (0,)


def test_names_of_prepared_statements(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two:
        assert kinds(one.ask(parse("SELECT 1", b"s"), SYNC)) == "1Z"
        assert kinds(two.ask(parse("SELECT 2", b"s"), SYNC)) == "1Z"
        assert kinds(one.ask(bind(b"s"), describe(b"P"), execute(), SYNC)) == "2TDCZ"
        assert [body for kind, body in one.ask(bind(b"s"), execute(), SYNC) if kind == "D"] == [b"\0\1\0\0\0\0011"]
        assert [body for kind, body in two.ask(bind(b"s"), execute(), SYNC) if kind == "D"] == [b"\0\1\0\0\0\0012"]
        taken = one.ask(parse("SELECT 3", b"s"), bind(b"s"), execute(), SYNC)
        assert (kinds(taken), sqlstate(taken)) == ("EZ", "42P05")
        assert b'prepared statement "s" already exists' in taken[0][1], "by the client's name, not by ours"
        for unknown in (bind(b"nobody"), describe(b"S", b"nobody"), bind(b"mainstay_1"), describe(b"S", b"mainstay_1")):
            answer = one.ask(unknown, execute(), SYNC)
            assert (kinds(answer), sqlstate(answer)) == ("EZ", "26000")
        assert kinds(one.ask(close_message(b"S", b"s"), close_message(b"S", b"nobody"), SYNC)) == "33Z"
        assert sqlstate(one.ask(bind(b"s"), SYNC)) == "26000"
        assert kinds(two.ask(bind(b"s"), execute(), SYNC)) == "2DCZ", "the other client's is still there"
        # A Parse that fails or is skipped gives no name.
        assert sqlstate(one.ask(parse("SELEC", b"bad"), parse("SELECT 1", b"skipped"), SYNC)) == "42601"
        assert sqlstate(one.ask(bind(b"bad"), SYNC)) == "26000"
        assert sqlstate(one.ask(bind(b"skipped"), SYNC)) == "26000"
        assert kinds(one.ask(parse("SELECT 1", b"skipped"), bind(b"skipped"), execute(), SYNC)) == "12DCZ"
        # A Close that is skipped closes nothing.
        assert kinds(one.ask(bind(b"nobody"), close_message(b"S", b"skipped"), SYNC)) == "EZ"
        assert kinds(one.ask(bind(b"skipped"), execute(), SYNC)) == "2DCZ"
        assert kinds(one.query("DEALLOCATE skipped")) == "CZ"
        assert sqlstate(one.ask(bind(b"skipped"), SYNC)) == "26000"
        for end in ("DEALLOCATE ALL", "DISCARD ALL"):
            one.ask(parse("SELECT 1", b"a"), SYNC)
            assert kinds(one.query(end)) == "CZ"
            assert sqlstate(one.ask(bind(b"a"), SYNC)) == "26000"
            assert kinds(two.ask(bind(b"s"), execute(), SYNC)) == "2DCZ", "the other client's comes back"


def test_the_unnamed_statement(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two, proxy.raw() as three:
        assert kinds(one.ask(parse("SELECT 'one'"), SYNC)) == "1Z"
        assert sqlstate(three.ask(bind(), execute(), SYNC)) == "26000", "another client's is not ours"
        assert sqlstate(three.ask(describe(b"S"), SYNC)) == "26000"
        assert kinds(two.ask(parse("SELECT 'two'"), bind(), execute(), SYNC)) == "12DCZ"
        for raw, word in ((one, b"one"), (two, b"two"), (one, b"one")):
            answer = raw.ask(bind(), describe(b"P"), execute(), SYNC)
            assert kinds(answer) == "2TDCZ"
            assert answer[2][1].endswith(word)
        assert kinds(one.query("SELECT 1")) == "TDCZ"
        assert sqlstate(one.ask(bind(), SYNC)) == "26000", "a simple query ends it"
        # One that was skipped is not there, and nobody else's is there in its place.
        assert sqlstate(one.ask(bind(b"nobody"), parse("SELECT 'skipped'"), SYNC)) == "26000"
        assert sqlstate(one.ask(bind(), execute(), SYNC)) == "26000"
        assert kinds(two.ask(bind(), execute(), SYNC)) == "2DCZ"
        # Settings are replayed by simple queries, which end it on the server; the client must not notice.
        assert kinds(two.query("SET work_mem = '7MB'")) == "CZ"
        assert kinds(two.ask(parse("SHOW work_mem"), SYNC)) == "1Z"
        one.query("SELECT 1")
        assert two.ask(bind(), execute(), SYNC)[1][1].endswith(b"7MB")


def test_more_statements_than_a_connection_keeps(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one:
        for number in range(600):
            assert kinds(one.ask(parse(f"SELECT {number}", b"s%d" % number), SYNC)) == "1Z"
        for number in (0, 1, 300, 599, 0):
            answer = one.ask(bind(b"s%d" % number), execute(), SYNC)
            assert kinds(answer) == "2DCZ", (number, answer)
            assert answer[1][1].endswith(str(number).encode())
        assert int(one.value("SELECT count(*) FROM pg_prepared_statements") or 0) <= 500


def on_one_worker(proxy: ProxyUnderTest) -> None:
    """Between workers a connection is not handed over but closed and opened, and no plan of it can be stale."""
    if proxy.workers():
        pytest.skip("both clients must be one worker's")


def test_statements_survive_a_changed_table(proxy: ProxyUnderTest) -> None:
    on_one_worker(proxy)
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two:
        one.query("DROP TABLE IF EXISTS changing; CREATE TABLE changing (a int)")
        one.ask(parse("SELECT * FROM changing", b"s"), bind(b"s"), execute(), SYNC)
        two.query("ALTER TABLE changing ADD b int")
        assert sqlstate(one.ask(bind(b"s"), execute(), SYNC)) == "0A000", "as the engine itself says"
        assert kinds(one.ask(bind(b"s"), describe(b"P"), execute(), SYNC)) == "2TCZ"
        two.query("DROP TABLE changing")
        answer = one.ask(bind(b"s"), execute(), SYNC)
        assert (kinds(answer), sqlstate(answer)) == ("EZ", "42P01")
        eventually(lambda: proxy.stats()["DatabaseConnectionsCurrentlyBorrowed"] == 0)


def test_a_statement_prepared_again_fits_a_changed_table(proxy: ProxyUnderTest) -> None:
    """What JDBC does: a new name for the same text, in the transaction that a savepoint has saved."""
    on_one_worker(proxy)
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two:
        one.query("DROP TABLE IF EXISTS changing; CREATE TABLE changing (a int)")
        for client in (one, two):
            assert kinds(client.ask(parse("SELECT * FROM changing", b"s"), bind(b"s"), execute(), SYNC)) == "12CZ"
        two.query("ALTER TABLE changing ADD b int")
        one.query("BEGIN")
        one.query("SAVEPOINT a")
        assert sqlstate(one.ask(bind(b"s"), execute(), SYNC)) == "0A000"
        one.query("ROLLBACK TO a")
        again = one.ask(parse("SELECT * FROM changing", b"t"), bind(b"t"), describe(b"P"), execute(), SYNC)
        assert kinds(again) == "12TCZ", again
        one.query("COMMIT")
        # Its plan here is stale, and elsewhere there is none: the name is as good as before.
        assert kinds(two.ask(bind(b"s"), execute(), SYNC)) == "2CZ"
        two.query("DROP TABLE changing")


# Pipelines


def test_pipelines(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.connect() as session, session.pipeline() as pipeline:
        session.execute("DROP TABLE IF EXISTS piped")
        session.execute("CREATE TABLE piped (i int PRIMARY KEY)")
        pipeline.sync()
        cursors = [session.execute("SELECT %s::int", (number,), prepare=True) for number in range(200)]
        assert [row(cursor) for cursor in cursors] == list(range(200))
        session.execute("INSERT INTO piped VALUES (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            session.execute("INSERT INTO piped VALUES (1)")
            session.execute("INSERT INTO piped VALUES (2)")
            pipeline.sync()
        with suppress(psycopg.errors.PipelineAborted):
            pipeline.sync()  # the error may have come before that one was sent
        assert row(session.execute("SELECT count(*) FROM piped")) == 0, "one transaction up to the Sync"
        session.execute("DROP TABLE piped")


def test_errors_in_the_middle_of_a_batch(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two:
        one.ask(parse("SELECT 1", b"known"), SYNC)
        batch = (
            parse("SELECT 1"), bind(), execute(), parse("SELECT 1/0"), bind(), execute(),
            parse("SELECT 1", b"known2"), close_message(b"S", b"known"), bind(b"known"), execute(), SYNC,
        )  # fmt: skip
        assert kinds(one.ask(*batch)) == "12DC1EZ"
        # The error is known before the rest is sent: the engine ignores that rest, and so do we.
        one.send(parse("SELECT 1/0"), bind(), execute(), FLUSH)
        assert kinds(one.until("E")) == "1E"
        one.send(parse("SELECT 1", b"known3"), bind(b"known"), execute(), close_message(b"S", b"known"), FLUSH)
        assert one.silent()
        assert kinds(one.ask(SYNC)) == "Z"
        assert kinds(one.ask(bind(b"known"), execute(), SYNC)) == "2DCZ"
        assert sqlstate(one.ask(bind(b"known3"), SYNC)) == "26000"
        # Two batches at once, the first of which fails.
        both = one.ask(parse("SELECT 1/0"), bind(), execute(), SYNC) + one.ask(
            parse("SELECT 2"), bind(), execute(), SYNC
        )
        assert kinds(both) == "1EZ12DCZ"
        one.send(bind(b"nobody"), SYNC, parse("SELECT 2", b"x"), bind(b"x"), execute(), SYNC, wire.query(b"SELECT 3"))
        assert kinds(one.until("Z")) == "EZ"
        assert kinds(one.until("Z")) == "12DCZ"
        assert kinds(one.until("Z")) == "TDCZ"
        assert kinds(two.query("SELECT 1")) == "TDCZ"


def test_batches_without_a_sync_keep_their_connection(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two:
        one.send(parse("CREATE TABLE half (i int)"), bind(), execute(), FLUSH)
        assert kinds(one.until("C")) == "12C"
        two.send(wire.query(b"SELECT 1"))
        assert two.silent(0.3), "the transaction of the batch is still open"
        one.send(parse("SELECT 1/0"), bind(), execute(), FLUSH)
        one.until("E")
        assert two.silent(0.1)
        assert kinds(one.ask(SYNC)) == "Z"
        assert kinds(two.until("Z")) == "TDCZ"
        assert two.value("SELECT to_regclass('half')") is None
        assert one.ask(SYNC)[-1] == ("Z", b"I")


def test_portals_with_a_row_limit(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one:
        one.query("BEGIN")
        assert kinds(
            one.ask(parse("SELECT generate_series(1, 5)", b"g"), bind(b"g", b"p"), execute(b"p", 2), SYNC)
        ) == ("12DDsZ")
        # The answer to a Close that we give comes where it was asked for.
        one.ask(parse("SELECT 1", b"other"), SYNC)
        assert kinds(one.ask(execute(b"p", 2), close_message(b"S", b"other"), execute(b"p", 2), SYNC)) == "DDs3DCZ"
        assert kinds(one.ask(close_message(b"P", b"p"), SYNC)) == "3Z"
        one.query("COMMIT")
        assert sqlstate(one.ask(execute(b"p"), SYNC)) == "34000"


# COPY


def test_copy(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.connect() as session, proxy.connect() as other:
        session.execute("DROP TABLE IF EXISTS copied")
        session.execute("CREATE TABLE copied (i int, t text)")
        with session.cursor() as cursor:
            with cursor.copy("COPY copied FROM STDIN") as copy:
                for number in range(20_000):
                    copy.write_row((number, "x" * 100))
            with cursor.copy("COPY copied TO STDOUT") as copy:
                assert sum(1 for _ in copy.rows()) == 20_000
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                with cursor.copy("COPY copied FROM STDIN") as copy:
                    for number in range(200_000):
                        copy.write(b"%d\tx\n" % number if number != 10 else b"no number\tx\n")
            assert row(other.execute("SELECT 1")) == 1
            assert row(cursor.execute("SELECT count(*) FROM copied")) == 20_000
            with pytest.raises(RuntimeError):
                with cursor.copy("COPY copied FROM STDIN") as copy:
                    copy.write(b"1\tx\n")
                    raise RuntimeError("the program fails")
            assert row(cursor.execute("SELECT count(*) FROM copied")) == 20_000
        session.execute("DROP TABLE copied")


def test_rests_of_a_copy_that_failed_reach_nobody(proxy: ProxyUnderTest) -> None:
    one_connection(proxy)
    with proxy.raw() as one, proxy.raw() as two:
        one.query("CREATE TABLE IF NOT EXISTS rests (i int)")
        one.send(wire.query(b"COPY rests FROM STDIN"))
        assert kinds(one.until("G")) == "G"
        one.send(wire.message(b"d", b"no number\n"), wire.message(b"d", b"1\n") * 100)
        assert kinds(one.until("Z")) == "EZ"
        long = wire.message(b"d", b"1\n" * 100_000)
        one.send(long[:1000])
        time.sleep(0.1)
        assert kinds(two.query("SELECT 1")) == "TDCZ"
        one.send(long[1000:], wire.message(b"d", b"2\n") * 100, wire.message(b"c"))
        assert kinds(two.query("SELECT 1")) == "TDCZ"
        assert kinds(one.query("SELECT count(*) FROM rests")) == "TDCZ"
        one.query("DROP TABLE rests")


def test_function_calls(proxy: ProxyUnderTest) -> None:
    with proxy.raw() as one:
        oid = int(one.value("SELECT 'pg_catalog.int4pl'::regproc::oid") or 0)
        body = oid.to_bytes(4, "big") + b"\0\0\0\2" + b"\0\0\0\0011\0\0\0\0012" + b"\0\0"
        answer = one.ask(wire.message(b"F", body))
        assert answer == [("V", b"\0\0\0\x013"), ("Z", b"I")]


# What pins, and what ends it


@pytest.mark.parametrize(
    ("begin", "end", "word"),
    [
        ("CREATE TEMP TABLE t (i int)", "DROP TABLE t", "temporary object"),
        ("SELECT 1 AS i INTO TEMPORARY t", "DROP TABLE t", "temporary object"),
        ("CREATE TEMP SEQUENCE t", "DROP SEQUENCE t", "temporary object"),
        ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", "DROP TABLE t", "temporary object"),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)", "advisory lock"),
        ("SELECT pg_try_advisory_lock_shared(7)", "SELECT pg_advisory_unlock_all()", "advisory lock"),
        ("LISTEN a", "UNLISTEN a", "listener"),
        ("LISTEN a", "UNLISTEN *", "listener"),
        ("PREPARE p AS SELECT 1", "DEALLOCATE p", "prepared statement"),
        ("PREPARE p AS SELECT 1", "DISCARD ALL", "prepared statement"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "cursor"),
        ("CREATE TEMP TABLE t (i int)", "DISCARD TEMP", "temporary object"),
    ],
)
def test_pins_end(proxy: ProxyUnderTest, begin: str, end: str, word: str) -> None:
    one_connection(proxy)
    with proxy.connect() as one:
        one.execute(begin)
        assert [word in reason for reason in proxy.pins()] == [True]
        assert proxy.stats()["DatabaseConnectionsCurrentlySessionPinned"] == 1
        one.execute("SELECT 1")
        assert proxy.pins()
        one.execute(end)
        eventually(lambda: proxy.pins() == [])
        with proxy.connect() as two:
            assert row(two.execute("SELECT 2")) == 2


def test_pins_of_a_transaction_that_goes_away(proxy: ProxyUnderTest) -> None:
    with proxy.connect(autocommit=False) as one:
        for sql in ("CREATE TEMP TABLE t (i int)", "LISTEN a", "DECLARE c CURSOR WITH HOLD FOR SELECT 1"):
            one.execute(sql)
            assert proxy.pins()
            one.rollback()
            eventually(lambda: proxy.pins() == [])
        one.execute("CREATE TEMP TABLE t (i int) ON COMMIT DROP")
        assert proxy.pins()
        one.commit()
        eventually(lambda: proxy.pins() == [])


def test_state_that_cannot_be_moved_stays(proxy: ProxyUnderTest) -> None:
    with proxy.clients(4) as others, proxy.connect() as one, proxy.connect() as notifier:
        one.execute("CREATE TEMP TABLE mine (i int)")
        one.execute("INSERT INTO mine VALUES (5)")
        one.execute("LISTEN news")
        one.execute("PREPARE plus AS SELECT $1::int + 1")
        one.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 10)")
        for other in others:
            other.execute("SELECT pg_sleep(0.01)")
        assert row(one.execute("SELECT i FROM mine")) == 5
        assert row(one.execute("EXECUTE plus(1)")) == 2
        assert row(one.execute("FETCH 1 FROM held")) == 1
        notifier.execute("NOTIFY news, 'hello'")
        assert [one.payload for one in one.notifies(timeout=5, stop_after=1)] == ["hello"]
        assert len(proxy.pins()) == 4


def test_names_of_the_client_do_not_rule_what_the_proxy_asks(proxy: ProxyUnderTest) -> None:
    """With a search_path full of traps the proxy still sees that there is a lock."""
    one_connection(proxy)
    with proxy.connect() as one:
        one.execute("DROP SCHEMA IF EXISTS evil CASCADE; CREATE SCHEMA evil")
        one.execute("CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 0'")
        one.execute("CREATE FUNCTION evil.never(int, int) RETURNS bool LANGUAGE sql AS 'SELECT false'")
        one.execute("CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.never)")
        one.execute("CREATE TABLE evil.pg_locks (locktype text, pid int)")
        one.execute("SET search_path = evil, pg_catalog")
        one.execute("SELECT pg_advisory_lock(5)")
        one.execute("SELECT pg_advisory_unlock(6)")
        time.sleep(0.1)
        assert proxy.pins()
        one.execute("SELECT pg_advisory_unlock(5)")
        eventually(lambda: proxy.pins() == [])
        one.execute("DROP SCHEMA evil CASCADE")


def test_requests_sent_while_a_pin_is_examined(proxy: ProxyUnderTest) -> None:
    """What comes in pieces while the proxy asks the engine is put together again."""
    with proxy.raw() as one:
        one.query("CREATE TEMP TABLE mine (i int)")
        for cut in range(1, 30):
            text = wire.query(f"SELECT {cut} /* {'x' * 50} */".encode())
            one.send(wire.query(b"SELECT pg_advisory_lock(1), pg_advisory_unlock(1)") + text[:cut])
            assert kinds(one.until("Z"))[-1] == "Z"
            one.send(text[cut:])
            answer = one.until("Z")
            assert kinds(answer) == "TDCZ"
            assert answer[1][1].endswith(str(cut).encode())


# Cancel


def test_cancel(proxy: ProxyUnderTest) -> None:
    with proxy.connect() as one, proxy.connect() as two:
        started = time.monotonic()
        timer = threading.Timer(0.3, one.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            one.execute("SELECT pg_sleep(30)")
        timer.join()
        assert time.monotonic() - started < 10
        one.cancel_safe()  # nothing is under way
        assert row(one.execute("SELECT 1")) == 1
        assert row(two.execute("SELECT 1")) == 1


def test_forged_cancel_keys(proxy: ProxyUnderTest) -> None:
    with proxy.raw() as one:
        one.send(wire.query(b"SELECT pg_sleep(1.5)"))
        time.sleep(0.2)
        for secret in (b"\0\0\0\0", one.secret[:3] + bytes([one.secret[3] ^ 1]), one.secret + b"\0", b"x" * 256):
            forger = RawClient.tcp(proxy.port)
            forger.send(wire.cancel_request(one.process_id, secret))
            with pytest.raises((EOFError, ConnectionError)):
                forger.read()
            forger.close()
        assert kinds(one.until("Z")) == "TDCZ"
