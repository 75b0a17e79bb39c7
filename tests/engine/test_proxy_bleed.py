"""Session bleed and transparency: nobody finds what another client has left, and nobody can tell the proxy from the
engine by what it answers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    parse,
    sqlstate,
)
from harness.service import PASSWORD, Service, eventually
from mainstay.protocol.postgres import wire

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SEQUENCES, SEQUENCES_FULL = 250, 2_500
PROGRAMS, PROGRAMS_FULL = 60, 400

# What a session can see of itself. Each is compared with a session that nobody has used before.
SEEN = """SELECT name, setting FROM pg_settings
 WHERE name NOT LIKE '%.%'
 AND name NOT IN ('application_name', 'transaction_isolation', 'transaction_read_only', 'transaction_deferrable')
 UNION ALL SELECT 'application_name', current_setting('application_name')
 UNION ALL SELECT 'bleed.x', coalesce(current_setting('bleed.x', true), '')
 UNION ALL SELECT 'users', current_user || '/' || session_user
 UNION ALL SELECT 'isolation', current_setting('transaction_isolation') || current_setting('transaction_read_only')
 UNION ALL SELECT 'temp', count(*)::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()
 UNION ALL SELECT 'locks', count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
 UNION ALL SELECT 'channels', count(*)::text FROM pg_listening_channels()
 UNION ALL SELECT 'cursors', count(*)::text FROM pg_cursors WHERE name <> ''
 UNION ALL SELECT 'prepared', count(*)::text FROM pg_prepared_statements WHERE from_sql
 ORDER BY 1"""

SIMPLE = [
    "SET work_mem = '7MB'", "SET SESSION statement_timeout = '55s'", "SET LOCAL work_mem = '3MB'",
    "SET search_path = pg_catalog", "SET search_path TO DEFAULT", "SET TIME ZONE 'Asia/Tokyo'", "SET NAMES 'LATIN1'",
    "SET client_encoding = 'SJIS'", "SET DateStyle = 'German'", "SET bleed.x = 'secret'", "SET bleed.x = 'gehéim'",
    "SET ROLE pg_monitor", "RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT", "SET ROLE NONE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET default_transaction_read_only = on", "SET default_transaction_read_only = off",
    "SET TRANSACTION READ ONLY", "SET extra_float_digits = 2", "SET standard_conforming_strings = off",
    "SET standard_conforming_strings = on", "RESET work_mem", "RESET ALL", "RESET bleed.x", "DISCARD ALL",
    "DISCARD TEMP", "DISCARD PLANS", "DISCARD SEQUENCES", "SET work_mem = '9MB'; SELECT 1/0",
    "SELECT 1; SET work_mem = '9MB'", "SET work_mem = '9MB'; SET enable_seqscan = off; RESET enable_seqscan",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, DEFERRABLE", "SET transaction_isolation TO 'serializable'",
    "SELECT set_config('TimeZone', 'Asia/Tokyo', false)", "SELECT set_config('search_path', 'pg_catalog, x', false)",
    "SELECT set_config('role', 'pg_monitor', false)", "SELECT set_config('work_mem', 'no', false)",
    "SELECT set_config('work_mem', '6MB', false)", "SELECT set_config('work_mem', '6MB', true)",
    "UPDATE pg_settings SET setting = '5120' WHERE name = 'work_mem'",
    "DO $$BEGIN SET work_mem = '4MB'; END$$", "DO $$BEGIN PERFORM pg_advisory_lock(5); END$$",
    "DO 'BEGIN EXECUTE ''SET bleed.x = 1''; END'",
    "CREATE TEMP TABLE IF NOT EXISTS bled (i int)", "CREATE TEMP TABLE brief (i int) ON COMMIT DROP",
    "DROP TABLE IF EXISTS bled", "SELECT 1 AS i INTO TEMP bled2", "DROP TABLE IF EXISTS bled2",
    "CREATE OR REPLACE TEMP VIEW bledv AS SELECT 1", "DROP VIEW IF EXISTS bledv", "CREATE TEMP SEQUENCE bleds",
    "DROP SEQUENCE IF EXISTS bleds", "EXPLAIN ANALYZE CREATE TEMP TABLE bled3 AS SELECT 1",
    "SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)", "SELECT pg_try_advisory_lock(2)",
    "SELECT pg_advisory_xact_lock(3)", "SELECT pg_advisory_unlock_all()", "LISTEN bled", "UNLISTEN bled",
    "UNLISTEN *", "PREPARE bled AS SELECT 1", "PREPARE bled2 (int) AS SELECT $1", "EXECUTE bled", "DEALLOCATE bled",
    "DEALLOCATE ALL", "DECLARE bled CURSOR WITH HOLD FOR SELECT 1", "DECLARE short CURSOR FOR SELECT 1",
    "FETCH bled", "CLOSE bled", "CLOSE ALL", "BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "COMMIT",
    "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "SELECT 1",
    "SELECT 1/0", "SELECT $x$;SET work_mem = '2MB';$x$", "SELECT ';' AS \"a;b\" -- ; SET work_mem = '2MB'",
    "/* /* ; */ */ SET work_mem = '8MB'", "-- x\rSET work_mem = '10MB'", "SET \"work_mem\" TO '11MB' /* x */ ;",
    "SET enable_seqscan TO off -- x", "SELECT E'\\''; SET enable_hashjoin = off; --'",
    "CREATE OR REPLACE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT nextval('bleeding')",
    "SELECT currval('bleeding')", "SELECT lastval()", "LOAD 'auto_explain'", "",
]  # fmt: skip


def options(pytestconfig: pytest.Config, short: int, full: int) -> int:
    return full if pytestconfig.getoption("--faults-full") else short


def state_of(client: RawClient) -> list[bytes]:
    answer = client.query(SEEN)
    assert sqlstate(answer) == "", answer
    return [body for kind, body in answer if kind == "D"]


def step(random_: random.Random, client: RawClient) -> str:
    """One statement, by the simple or the extended protocol, perhaps with the messages of a batch."""
    sql = random_.choice(SIMPLE)
    how = random_.randrange(5)
    if how < 3 or ";" in sql.strip("; "):
        client.query(sql)
        return sql
    name = random_.choice([b"", b"n1", b"n2"])
    portal = random_.choice([b"", b"p"])
    # Of a row at most: a portal that is not read to its end.
    messages = [parse(sql, name), bind(name, portal), execute(portal, random_.choice([0, 0, 1]))]
    if name:
        messages.insert(random_.choice([0, 3]), close_message(b"S", name))
    client.ask(*messages, SYNC)
    return f"[{name.decode()}] {sql}"


def test_no_session_sees_another_ones_state(proxy: ProxyUnderTest, pytestconfig: pytest.Config) -> None:
    """Client A does what it likes; client B, on the same connection, finds what a new session finds."""
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    with proxy.connect() as admin:
        admin.execute("CREATE SEQUENCE IF NOT EXISTS bleeding; SELECT nextval('bleeding')")
        admin.execute("GRANT pg_monitor TO app")
    eventually(lambda: not proxy.sessions())
    proxy.put(pool={"max_connections_percent": 1})
    eventually(lambda: proxy.stats()["DatabaseConnections"] <= 1)
    with proxy.raw() as fresh:
        pristine = state_of(fresh)
        assert len(pristine) > 300
    pinned = shared = 0
    for number in range(options(pytestconfig, SEQUENCES, SEQUENCES_FULL)):
        done: list[str] = []
        try:
            with proxy.raw() as one:
                for _ in range(random_.randrange(1, 7)):
                    done.append(step(random_, one))
                if random_.random() < 0.5:
                    one.query("ROLLBACK")
                    if proxy.pins():
                        pinned += 1
                        continue
                    shared += 1
                    with proxy.raw() as two:
                        assert state_of(two) == pristine
                    # And the first one is what it was before the other one came.
                    kept = one.query(SEEN)
                    one.query("SELECT 1")
                    assert one.query(SEEN) == kept
            with proxy.raw() as two:
                assert state_of(two) == pristine
                assert sqlstate(two.ask(bind(), execute(), SYNC)) == "26000"
        except BaseException as error:
            error.add_note(f"seed {seed}, sequence {number}: {done}, {proxy.stats()} {proxy.log()[-1500:]}")
            raise
    assert shared > 5 and pinned > 5, "both must be seen: else this test says nothing"


# Transparency


def masked(messages: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Without what must or may differ: pids, lines of the engine's source, our name for applications.

    A statement that the client has prepared twice under two names is one on the engine, which names one of them.
    """
    found = []
    for kind, body in messages:
        if kind in "EN":
            fields = wire.error_fields(body)
            text = repr([fields.get(one) for one in "SVCMDHP"])
            found.append((kind, re.sub(r'prepared statement "[a-f]"', "prepared statement", text).encode()))
        elif kind == "S" and body.startswith(b"application_name"):
            continue
        elif kind == "A":
            found.append((kind, body[4:]))
        else:
            found.append((kind, body))
    return found


Program = list[Callable[[RawClient], list[tuple[str, bytes]]]]

QUERIES = [
    "SELECT 1", "SELECT 1, 'two', NULL", "SELECT generate_series(1, 50)", "SELECT 1; SELECT 2; SELECT 'x'", "", ";",
    "SELECT 1/0", "SELECT nothing", "SELEC", "SELECT 1; SELECT 1/0; SELECT 2", "BEGIN", "COMMIT", "ROLLBACK",
    "BEGIN; INSERT INTO transparent VALUES (1, 'a'); COMMIT", "INSERT INTO transparent VALUES (2, 'b') RETURNING *",
    "UPDATE transparent SET t = 'c'", "DELETE FROM transparent", "SELECT * FROM transparent ORDER BY i, t",
    "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "SET work_mem = '7MB'", "SHOW work_mem", "SET nonsense = 1",
    "SET DateStyle = 'German'", "SHOW DateStyle", "RESET ALL", "SELECT repeat('x', 300000)",
    "SELECT repeat('y', 10000) FROM generate_series(1, 30)", "DO $$BEGIN RAISE NOTICE 'hello'; END$$",
    "DO $$BEGIN RAISE EXCEPTION 'no' USING HINT = 'try', DETAIL = 'it', ERRCODE = '12345'; END$$",
    "DECLARE c CURSOR FOR SELECT generate_series(1, 9)", "FETCH 3 FROM c", "CLOSE c", "COPY transparent TO STDOUT",
    "CREATE TEMP TABLE mine (i int)", "DROP TABLE mine", "PREPARE p AS SELECT 7", "EXECUTE p", "DEALLOCATE p",
    "DISCARD ALL", "LISTEN own; NOTIFY own, 'self'", "UNLISTEN *", "SELECT pg_advisory_lock(9)",
    "SELECT pg_advisory_unlock(9)", "COMMIT AND CHAIN", "VACUUM transparent", "SELECT 'é', E'\\u00e9'",
]  # fmt: skip


BATCHED = [one for one in QUERIES if ";" not in one and "COPY" not in one and "DISCARD" not in one]
"""DISCARD ALL ends statements that a later batch, sent with it, may already have been read to use: see `batch`."""


def simple(sql: str) -> Callable[[RawClient], list[tuple[str, bytes]]]:
    return lambda client: client.query(sql)


def batch(random_: random.Random) -> Callable[[RawClient], list[tuple[str, bytes]]]:
    """Up to three batches of the extended protocol at once, with anything anywhere in them."""
    messages: list[bytes] = []
    syncs = random_.randrange(1, 4)
    for names in ([b"", b"a", b"b", b"c"], [b"", b"d", b"e"], [b"", b"f"])[:syncs]:
        # A name belongs to one batch of those that are sent at once: whether a Parse or Close in an earlier one has
        # failed is not known yet when a later one is read, and the proxy does not hold it back for that.
        for _ in range(random_.randrange(0, 6)):
            name = random_.choice(names)
            portal = random_.choice([b"", b"", b"p", b"q"])
            sql = random_.choice(BATCHED)
            messages += random_.choice(
                [
                    [parse(sql, name), bind(name, portal), execute(portal)],
                    [
                        parse(sql, name),
                        describe(b"S", name),
                        bind(name, portal),
                        describe(b"P", portal),
                        execute(portal),
                    ],
                    [parse("SELECT $1::int + $2::int", name), bind(name, portal, b"20", b"22"), execute(portal)],
                    [
                        parse("SELECT generate_series(1, 6)", name),
                        bind(name, portal),
                        execute(portal, 2),
                        execute(portal),
                    ],
                    [bind(name or names[1], portal), execute(portal)],
                    [bind(name or names[1], portal), describe(b"P", portal), execute(portal, 1)],
                    [close_message(b"S", name)],
                    [close_message(b"P", portal)],
                    [execute(portal)],
                    [describe(b"S", name or names[1])],
                    [parse(sql, name)],
                    [FLUSH],
                ]
            )
        messages.append(SYNC)
    cuts = sorted(random_.randrange(len(b"".join(messages)) + 1) for _ in range(random_.randrange(3)))

    def run(client: RawClient) -> list[tuple[str, bytes]]:
        data = b"".join(messages)
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            client.send(data[begin:end])
        return [one for _ in range(syncs) for one in client.until("Z")]

    return run


def copy_in(random_: random.Random) -> Callable[[RawClient], list[tuple[str, bytes]]]:
    rows = [b"%d\tx\n" % random_.randrange(100) for _ in range(random_.randrange(300))]
    if random_.random() < 0.3:
        rows.insert(random_.randrange(len(rows) + 1), b"no number\n")
    end = random_.choice([wire.message(b"c"), wire.message(b"f", b"I gave up\0")])

    def run(client: RawClient) -> list[tuple[str, bytes]]:
        client.send(wire.query(b"COPY transparent FROM STDIN"))
        first = client.until("G", "Z")
        if first[-1][0] == "Z":
            return first
        client.send(*(wire.message(b"d", row) for row in rows), end)
        return first + client.until("Z")

    return run


def program(random_: random.Random) -> Program:
    steps: Program = []
    for _ in range(random_.randrange(3, 12)):
        how = random_.randrange(10)
        if how < 5:
            steps.append(simple(random_.choice(QUERIES)))
        elif how < 9:
            steps.append(batch(random_))
        else:
            steps.append(copy_in(random_))
    return [*steps, simple("ROLLBACK"), simple("DROP TABLE IF EXISTS mine"), simple("DISCARD ALL")]


def run(client: RawClient, steps: Program) -> list[list[tuple[str, bytes]]]:
    return [masked(one(client)) for one in steps]


def test_the_proxy_answers_as_the_engine(
    proxy: ProxyUnderTest, service: Service, proxied_instance: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    """Random programs: every message, in order, is the same with the proxy as without."""
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    path = socket_of(service, proxied_instance)
    with proxy.connect() as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS transparent (i int, t text)")
    differences = []
    for number in range(options(pytestconfig, PROGRAMS, PROGRAMS_FULL)):
        steps = program(random_)
        answers = []
        for through_proxy in (False, True):
            client = RawClient.tcp(proxy.port) if through_proxy else RawClient.unix(str(path))
            client.log_in(password=PASSWORD, application_name="RDSProxy", client_encoding="UTF8")
            try:
                client.query("TRUNCATE transparent")
                answers.append(run(client, steps))
            finally:
                client.close()
        direct, proxied = answers
        for index, (one, other) in enumerate(zip(direct, proxied, strict=True)):
            if one != other:
                differences.append((number, index, _short(one), _short(other)))
                break
    report = "\n".join(
        f"program {number} step {step}:\n  engine {one}\n  proxy  {other}"
        for number, step, one, other in differences[:3]
    )
    assert not differences, f"seed {seed}: {len(differences)}\n{report}"


def socket_of(service: Service, instance: dict[str, Any]) -> Path:
    """The engine's own socket."""
    resource = instance["DbiResourceId"].encode()
    specs = (service.home / "agent" / "nodes").glob("*/spec.json")
    node = next(path.parent.name for path in specs if resource in path.read_bytes())
    return next(one for one in (service.settings.runtime / "nodes" / node).glob(".s.PGSQL.*") if one.is_socket())


def _short(messages: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return [(kind, body[:120]) for kind, body in messages]
