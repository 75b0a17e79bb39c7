"""What texts do to their session."""

from __future__ import annotations

import time

import pytest

from mainstay.protocol.postgres.effects import (
    CONNECTED,
    CURSOR,
    JUDGED_BYTES_MAX,
    LISTENING,
    LOADED,
    LOCKED,
    OPAQUE,
    PREPARED,
    SEQUENCE,
    SETTINGS_CHANGED,
    TEMPORARY,
    Deallocate,
    DeallocateAll,
    DiscardAll,
    Effect,
    LocalSetting,
    MaybeUnpin,
    Pin,
    ResetAll,
    RollbackTo,
    Setting,
    effects,
)
from mainstay.protocol.postgres.suspicion import suspicious

CHANGED = Pin(SETTINGS_CHANGED, probe=False)
SEEDED = Pin(SETTINGS_CHANGED, probe=False, stains=True)
UNSEEN = Pin(OPAQUE, probe=False, stains=True)
UNPIN = MaybeUnpin()


def setting(name: str, sql: str) -> Setting:
    return Setting(name, sql.encode())


def configured(name: str, value: str) -> Setting:
    return setting(name.lower(), f"SELECT pg_catalog.set_config('{name}', '{value}', false)")


ONE_STATEMENT: list[tuple[str, list[Effect]]] = [
    # Nothing
    ("SELECT 1", []),
    ("select 'set work_mem = 1'", []),
    ("INSERT INTO settings VALUES (1)", []),
    ("UPDATE t SET a = 1", []),
    ("UPDATE t\nSET a = 1", []),
    ("UPDATE t SET a = 1 WHERE b = 'reset'", []),
    ("INSERT INTO temp VALUES (1)", []),
    ("SELECT temp FROM sensors", []),
    ("CREATE TABLE t (listen int)", []),
    ("SET LOCAL work_mem = '7MB'", []),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", []),
    ("SET CONSTRAINTS ALL DEFERRED", []),
    ("SET transaction_isolation TO 'serializable'", []),
    ("SET SESSION transaction_read_only = on", []),
    ("SELECT set_config('work_mem', '7MB', true)", []),
    ("SELECT set_config('a', b(c, d), TRUE)", []),
    ("SELECT pg_advisory_xact_lock(1)", []),
    ("SELECT pg_try_advisory_xact_lock_shared(1)", []),
    ("PREPARE TRANSACTION 'x'", []),
    ("DECLARE c CURSOR FOR SELECT 1", []),
    ("DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1", []),
    ("ROLLBACK", []),
    ("ROLLBACK PREPARED 'x'", []),
    ("DO $$BEGIN UPDATE t SET a = 1; END$$", []),
    ("DO $$BEGIN INSERT INTO t VALUES (1); END$$", []),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", []),
    # Settings
    ("SET work_mem = '7MB'", [setting("work_mem", "SET work_mem = '7MB'")]),
    ("  set WORK_MEM to 7000 ", [setting("work_mem", "set WORK_MEM to 7000")]),
    ("/* a */ SET /* b */ work_mem = 1 /* c */", [setting("work_mem", "SET /* b */ work_mem = 1")]),
    ("-- a\nSET work_mem = 1 -- b", [setting("work_mem", "SET work_mem = 1")]),
    ("-- a\rSET work_mem = 1", [setting("work_mem", "SET work_mem = 1")]),
    ("/* /* nested */ SET a = 1; */ SET b = 2", [setting("b", "SET b = 2")]),
    ("SET SESSION work_mem = 1", [setting("work_mem", "SET SESSION work_mem = 1")]),
    ("SET \"work_mem\" TO '1MB'", [setting("work_mem", "SET \"work_mem\" TO '1MB'")]),
    ("SET my.own = 'x'", [setting("my.own", "SET my.own = 'x'")]),
    ("SET TIME ZONE 'UTC'", [setting("timezone", "SET TIME ZONE 'UTC'")]),
    ("SET SCHEMA 'a'", [setting("search_path", "SET SCHEMA 'a'"), UNPIN]),
    ("SET SCHEMA 'pg_temp'", [setting("search_path", "SET SCHEMA 'pg_temp'"), Pin(TEMPORARY)]),
    (r"SET search_path = E'\x70g_temp'", [setting("search_path", r"SET search_path = E'\x70g_temp'"), Pin(TEMPORARY)]),
    ("SET ROLE admin", [setting("role", "SET ROLE admin")]),
    ("SET NAMES 'UTF8'", [setting("client_encoding", "SET NAMES 'UTF8'")]),
    ("SET XML OPTION DOCUMENT", [setting("xmloption", "SET XML OPTION DOCUMENT")]),
    ("SET work_mem TO DEFAULT", [Setting("work_mem", None)]),
    ("RESET work_mem", [Setting("work_mem", None)]),
    ("RESET TIME ZONE", [Setting("timezone", None)]),
    ("RESET ALL", [ResetAll()]),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        [setting("default_transaction_read_only", "SET default_transaction_read_only TO 'on'")],
    ),
    (
        "set session characteristics as transaction isolation level repeatable read, read write NOT DEFERRABLE",
        [
            setting("default_transaction_isolation", "SET default_transaction_isolation TO 'repeatable read'"),
            setting("default_transaction_read_only", "SET default_transaction_read_only TO 'off'"),
            setting("default_transaction_deferrable", "SET default_transaction_deferrable TO 'off'"),
        ],
    ),
    ("SELECT set_config('work_mem', '7MB', false)", [configured("work_mem", "7MB")]),
    ("select pg_catalog.set_config( 'TimeZone' ,'Asia/Tokyo', FALSE ) -- x", [configured("TimeZone", "Asia/Tokyo")]),
    ("SELECT set_config('my.own', 'it''s', false)", [configured("my.own", "it''s")]),
    ("DISCARD ALL", [DiscardAll()]),
    # What cannot be replayed
    ("SET application_name = 'é'", [CHANGED]),
    ("SET client_encoding = 'SJIS'", [CHANGED]),
    ("SET NAMES 'GBK'", [CHANGED]),
    ("SET standard_conforming_strings = off", [CHANGED]),
    ("SET LOCAL standard_conforming_strings = off", [CHANGED]),
    ("SET SESSION AUTHORIZATION other", [CHANGED]),
    ("RESET SESSION AUTHORIZATION", [CHANGED]),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION SNAPSHOT '1'", [CHANGED]),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY SOMETIMES", [CHANGED]),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION", [CHANGED]),
    ("SET SESSION CHARACTERISTICS READ ONLY", [CHANGED]),
    ("SET SEED TO 0.5", [SEEDED]),
    ('SET "seed" = 0.5', [SEEDED]),
    ("SET LOCAL seed = 0.5", [SEEDED]),
    ("SELECT set_config('seed', '0.5', false)", [SEEDED]),
    ("SELECT set_config('seed', '0.5', true)", [SEEDED]),
    ("SET LOCAL timezone = 'Asia/Tokyo'", [LocalSetting()]),
    ("SET LOCAL TIME ZONE 'Asia/Tokyo'", [LocalSetting()]),
    ("SELECT set_config('DateStyle', 'SQL', true)", [LocalSetting()]),
    ("SELECT set_config($1, $2, true)", [LocalSetting()]),
    ("SELECT set_config('app.tenant', $1, true)", []),
    ("SET LOCAL statement_timeout = 5", []),
    ("SELECT set_config('a', 'b', false) WHERE false", [CHANGED]),
    ("SELECT set_config('a', 'b', false), set_config('c', 'd', false)", [CHANGED, CHANGED]),
    ("SELECT set_config('a', E'b', false)", [CHANGED]),
    ("SELECT set_config('a', 'b\\c', false)", [CHANGED]),
    ("SELECT set_config('a', 'é', false)", [CHANGED]),
    ("SELECT set_config('a', 'b'\n'c', false)", [CHANGED]),
    ("SELECT my.set_config('a', 'b', false)", [CHANGED]),
    ("SELECT set_config('client_encoding', 'SJIS', false)", [CHANGED]),
    ("SELECT set_config('standard_conforming_strings', 'off', false)", [CHANGED]),
    ("SELECT set_config('session_authorization', 'other', false)", [CHANGED]),
    ("SELECT pg_catalog.set_config('work_mem', $1, $2)", [CHANGED]),
    ("SELECT \"set_config\"('work_mem', '7MB', false)", [CHANGED]),
    ("SELECT setseed(0.1)", [SEEDED]),
    ("UPDATE pg_settings SET setting = '1' WHERE name = 'work_mem'", [CHANGED]),
    ("WITH a AS (UPDATE pg_catalog.\"pg_settings\" SET setting = 1) SELECT 1", [CHANGED]),
    ("DO $$BEGIN SET work_mem = 1; END$$", [UNSEEN]),
    ("DO $x$BEGIN IF true THEN SET work_mem = 1; END IF; END$x$", [UNSEEN]),
    ("DO 'BEGIN PERFORM pg_advisory_lock(1); END'", [UNSEEN]),
    ("DO $$BEGIN EXECUTE 'SET a = 1'; END$$", [UNSEEN]),
    # State, and its end
    ("CREATE TEMP TABLE t (i int)", [Pin(TEMPORARY)]),
    ("CREATE LOCAL TEMPORARY TABLE t (i int)", [Pin(TEMPORARY)]),
    ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", [Pin(TEMPORARY)]),
    ("CREATE TEMP TABLE t (i int) ON COMMIT DROP", [Pin(TEMPORARY), UNPIN]),
    ("SELECT 1 INTO TEMP t", [Pin(TEMPORARY)]),
    ("SELECT 1 INTO LOCAL TEMPORARY TABLE t", [Pin(TEMPORARY)]),
    ("(SELECT 1 INTO TEMP t)", [Pin(TEMPORARY)]),
    ("WITH a AS (SELECT 1) SELECT * INTO TEMP t FROM a", [Pin(TEMPORARY)]),
    ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", [Pin(TEMPORARY)]),
    ("CREATE TABLE pg_temp.t (i int)", [Pin(TEMPORARY)]),
    ("DROP TABLE t", [UNPIN]),
    ("LISTEN a", [Pin(LISTENING)]),
    ("UNLISTEN *", [UNPIN]),
    ("LOAD 'auto_explain'", [Pin(LOADED, probe=False, stains=True)]),
    ("PREPARE a AS SELECT 1", [Pin(PREPARED)]),
    ("DEALLOCATE a", [Deallocate("a"), UNPIN]),
    ("DEALLOCATE PREPARE \"A b\"", [Deallocate("A b"), UNPIN]),
    ("DEALLOCATE ALL", [DeallocateAll(), UNPIN]),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", [Pin(CURSOR)]),
    ("DECLARE c INSENSITIVE SCROLL CURSOR WITH HOLD FOR SELECT 1", [Pin(CURSOR)]),
    ("CLOSE c", [UNPIN]),
    ("SELECT nextval('s')", [Pin(SEQUENCE, probe=False)]),
    ("SELECT lastval()", [Pin(SEQUENCE, probe=False)]),
    ("SELECT pg_advisory_lock(1)", [Pin(LOCKED)]),
    ("SELECT pg_try_advisory_lock_shared(1, 2)", [Pin(LOCKED)]),
    ("SELECT pg_advisory_unlock(1)", [UNPIN]),
    ("SELECT pg_advisory_lock(1), pg_advisory_unlock(1)", [Pin(LOCKED), UNPIN]),
    ("SELECT dblink_connect('x')", [Pin(CONNECTED, probe=False, stains=True)]),
    ("ROLLBACK TO a", [RollbackTo()]),
    ("ROLLBACK WORK TO SAVEPOINT a", [RollbackTo()]),
    ("ROLLBACK /* x */ TO a", [RollbackTo()]),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "wanted"), ONE_STATEMENT)
def test_one_statement(sql: str, wanted: list[Effect]) -> None:
    assert effects(sql.encode()) == (tuple(wanted),)
    if wanted:
        assert suspicious(sql.encode()), "or nobody would look"


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("", ()),
        (";;", ()),
        ("-- nothing", ()),
        ("SELECT 1; SELECT 2", ((), ())),
        ("SELECT ';'; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("SELECT $$;$$; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("SELECT $a$ $$; $b$ $a$; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("SELECT $é×$ ' $é×$; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("SELECT a$b$c; SET a = 1; SELECT d$b$", ((), (setting("a", "SET a = 1"),), ())),
        ("SELECT $1; SET a = 1; SELECT $1", ((), (setting("a", "SET a = 1"),), ())),
        ("SELECT E'\\''; SET a = 1; --'", ((), (setting("a", "SET a = 1"),))),
        ("SELECT '\\'; SET a = 1; --'", ((), (setting("a", "SET a = 1"),))),
        ("SELECT E'a'\n'\\''; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("SELECT 'a''b'; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ('SELECT ";"; SET a = 1', ((), (setting("a", "SET a = 1"),))),
        ("SELECT 1 /* ; */; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("SELECT 1 -- ;\n; SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("SET a = 1 -- x\n; SET b = 2", ((setting("a", "SET a = 1"),), (setting("b", "SET b = 2"),))),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); SET a = 1", ((), (setting("a", "SET a = 1"),))),
        ("BEGIN; SET a = 1; COMMIT", ((), (setting("a", "SET a = 1"),), ())),
    ],
)
def test_texts_of_several_statements(sql: str, wanted: tuple[tuple[Effect, ...], ...]) -> None:
    assert effects(sql.encode()) == wanted


def test_strict_pins_as_rds_proxy() -> None:
    for sql in (
        "SET a = 1", "RESET a", "PREPARE a AS SELECT 1", "DEALLOCATE a", "DISCARD ALL", "EXECUTE a",
        "DECLARE c CURSOR FOR SELECT 1", "SELECT set_config('a', 'b', false)",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ):  # fmt: skip
        pins = [one for one in effects(sql.encode(), strict=True)[0] if isinstance(one, Pin)]
        assert len(pins) == 1 and not pins[0].probe, sql
    for sql in ("SET LOCAL a = 1", "SELECT 1", "SET TRANSACTION READ ONLY", "SELECT pg_advisory_xact_lock(1)"):
        assert not any(effects(sql.encode(), strict=True)), sql
    assert effects(b"SELECT pg_advisory_lock(1)", strict=True) == ((Pin(LOCKED, probe=False),),)


def test_texts_that_are_too_long_to_be_read() -> None:
    long = b"INSERT INTO t VALUES ('" + b"x" * JUDGED_BYTES_MAX + b"')"
    assert effects(long) == ()
    assert effects(long + b"; RESET ALL") == ((UNSEEN,),)


@pytest.mark.parametrize(
    "text",
    [
        b"rollback ",
        b"\n",
        b"$a$ ",
        b"/*",
        b"*/ ",
        b"'",
        b"E'\\",
        b"; ",
        b"(",
        b'U&"',
        b"set ",
        b"rollback" + b" " * 500,
    ],
)
def test_time_grows_with_the_length_only(text: bytes) -> None:
    """Texts made to be slow: a text of the greatest length that is read takes moments."""
    for sql in (text * (JUDGED_BYTES_MAX // len(text)), b"reset " + text * (JUDGED_BYTES_MAX // len(text) - 10)):
        started = time.process_time()
        suspicious(sql * 4)
        effects(sql)
        assert time.process_time() - started < 5


def test_any_bytes_are_a_text() -> None:
    assert effects(bytes(range(256)) + b"; SET a = 1")
    assert effects(b"\xff\xfe; SET a = 1")[-1] == (setting("a", "SET a = 1"),)
