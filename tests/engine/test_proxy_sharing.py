"""What clients share without knowing it: prepared statements, and what was set when a connection was new."""

from __future__ import annotations

import time

import psycopg
import pytest

from harness.proxy import ProxyUnderTest
from harness.service import eventually

pytestmark = pytest.mark.engine

EPOCH = "SELECT extract(epoch FROM timestamptz '2026-01-01 00:00')::int"
UTC, TOKYO = 1767225600, 1767225600 - 9 * 3600
DAY = "SELECT date '01/02/2026' - date '2026-01-01'"
INIT = "SET work_mem = '5MB'; SET statement_timeout = '77s'"


def one(session: psycopg.Connection, sql: str, *, prepare: bool = True) -> object:
    row = session.execute(sql, prepare=prepare).fetchone()
    assert row is not None
    return row[0]


def test_a_literal_is_read_by_the_settings_of_who_prepares_it(proxy: ProxyUnderTest) -> None:
    zones = {"UTC": UTC, "Asia/Tokyo": TOKYO}
    for zone, wanted in (*zones.items(), *reversed(zones.items())):
        with proxy.connect(options=f"-c TimeZone={zone}") as session:
            assert one(session, EPOCH) == wanted
    for style, days in (("MDY", 1), ("DMY", 31), ("MDY", 1)):
        with proxy.connect() as session:
            session.execute(f"SET DateStyle = 'ISO, {style}'")
            assert one(session, DAY) == days


def test_a_setting_of_one_transaction_does_not_reach_what_others_prepare(proxy: ProxyUnderTest) -> None:
    text = EPOCH + " AS of_transaction"
    for sql in ("SET LOCAL TimeZone = 'Asia/Tokyo'", "SELECT set_config('TimeZone', 'Asia/Tokyo', true)"):
        with proxy.connect(options="-c TimeZone=UTC") as session, session.transaction():
            session.execute(sql)
            assert one(session, text) == TOKYO
        with proxy.connect(options="-c TimeZone=UTC") as other:
            assert one(other, text) == UTC
    with proxy.connect(options="-c TimeZone=UTC") as known, proxy.connect(options="-c TimeZone=UTC") as other:
        fresh = text + "_2"
        assert one(known, fresh) == UTC
        end_backends(proxy)
        with known.transaction():
            known.execute("SET LOCAL TimeZone = 'Asia/Tokyo'")
            one(known, fresh)  # prepared again on a connection that has never had it
        assert one(other, fresh) == UTC


def test_a_statement_that_moves_under_other_settings_stays_its_clients(proxy: ProxyUnderTest) -> None:
    text = EPOCH + " AS moving"
    with proxy.connect(options="-c TimeZone=UTC") as session, proxy.connect(options="-c TimeZone=UTC") as other:
        assert one(session, text) == UTC
        session.execute("SET TimeZone = 'Asia/Tokyo'")
        end_backends(proxy)
        assert one(session, text) == TOKYO, "read anew"
        assert one(other, text) == UTC


def test_now_is_the_moment_of_the_clients_own_parse(proxy: ProxyUnderTest) -> None:
    text = "SELECT extract(epoch FROM timestamptz 'now')::float8"
    with proxy.connect() as session:
        first = one(session, text)
    time.sleep(0.2)
    with proxy.connect() as session:
        second = one(session, text)
    assert isinstance(first, float) and isinstance(second, float) and second - first > 0.1


@pytest.mark.parametrize("leaves", [True, False])
def test_what_discard_all_leaves_goes_with_its_connection(proxy: ProxyUnderTest, leaves: bool) -> None:
    with proxy.connect() as session, proxy.connect() as other:
        session.execute("SELECT setseed(0.25)")
        backend = one(session, "SELECT pg_backend_pid()")
        if leaves:
            session.close()
        else:
            session.execute("DISCARD ALL")
            assert one(session, "SELECT pg_backend_pid()") != backend
        eventually(lambda: not proxy.pins())
        assert one(other, "SELECT pg_backend_pid()") != backend


@pytest.mark.parametrize("sql", ["RESET work_mem", "RESET ALL", "DISCARD ALL", "SET work_mem TO DEFAULT"])
def test_nobody_takes_away_what_the_init_query_has_set(proxy: ProxyUnderTest, sql: str) -> None:
    with_init(proxy)
    with proxy.connect() as session:
        session.execute("SET work_mem = '9MB'; SET statement_timeout = '3s'")
        session.execute(sql)
        with proxy.connect() as other:
            assert settings(other) == ["5MB", "77s"]
            assert settings(session)[0] == "5MB"


def test_a_cleaned_connection_has_what_the_init_query_sets(proxy: ProxyUnderTest) -> None:
    with_init(proxy)
    with proxy.connect() as session:
        session.execute("CREATE TEMP TABLE x (i int)")
        session.execute("SET work_mem = '9MB'")
        backend = one(session, "SELECT pg_backend_pid()")
    with proxy.connect() as other:
        eventually(lambda: not proxy.pins())
        assert one(other, "SELECT pg_backend_pid()") == backend, "it was cleaned, not closed"
        assert settings(other) == ["5MB", "77s"]


def test_another_init_query_counts_for_everybody(proxy: ProxyUnderTest) -> None:
    with proxy.connect() as session:
        session.execute("SELECT 1")
        with_init(proxy)
        assert settings(session) == ["5MB", "77s"]


def test_an_init_query_that_hangs_can_be_mended(proxy: ProxyUnderTest) -> None:
    with_init(proxy, "SELECT pg_sleep(600)", connection_borrow_timeout_s=2.0)
    with pytest.raises(psycopg.OperationalError, match="Timed-out"), proxy.connect() as session:
        session.execute("SELECT 1")
    assert proxy.stats()["DatabaseConnections"] <= 2, "no more are opened than clients wait"
    with_init(proxy, connection_borrow_timeout_s=2.0)
    with proxy.connect() as session:
        assert settings(session) == ["5MB", "77s"]
    eventually(lambda: proxy.stats()["DatabaseConnectionsCurrentlyBorrowed"] == 0, timeout_s=20)


def end_backends(proxy: ProxyUnderTest) -> None:
    """Whoever asks next gets a connection on which nothing is prepared."""
    with proxy.service.connect(proxy.instance) as direct:
        direct.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND pid <> pg_backend_pid()"
        )
    eventually(lambda: proxy.stats()["DatabaseConnections"] == 0)


def with_init(proxy: ProxyUnderTest, sql: str = INIT, **pool: float) -> None:
    proxy.put(pool={"init_query": sql, "connection_borrow_timeout_s": 30.0, **pool})


def settings(session: psycopg.Connection) -> list[object]:
    return [one(session, f"SHOW {name}", prepare=False) for name in ("work_mem", "statement_timeout")]
