"""What of a session is carried from one server connection to the next."""

from __future__ import annotations

import pytest

from mainstay.protocol.postgres.effects import DiscardAll, MaybeUnpin, Pin, ResetAll, RollbackTo, Setting
from mainstay.proxy.state import SessionState, Settings, applied, difference, setting_sql

A1, A2, B1 = b"SET a = 1", b"SET a = 2", b"SET b = 1"
ROLE = b"SET ROLE x"


@pytest.mark.parametrize(
    ("present", "wanted", "sql"),
    [
        ({}, {}, b""),
        ({"a": A1}, {"a": A1}, b""),
        ({}, {"a": A1, "b": B1}, b"SET a = 1; SET b = 1"),
        ({"a": A1}, {}, b'RESET "a"'),
        ({"a": A1}, {"a": A2}, b"SET a = 2"),
        ({"a": A1, "b": B1}, {"a": A1}, b'RESET "b"'),
        ({"a": A1}, {"a": A1, "b": B1}, b"SET b = 1"),
        ({"my.own": b"SET my.own = 1"}, {}, b'RESET "my"."own"'),
        ({"role": ROLE}, {}, b"RESET ROLE"),
        # A role may not be allowed what was set before it: order is kept.
        ({"a": A1}, {"role": ROLE, "a": A1}, b"SET ROLE x; SET a = 1"),
        ({"role": ROLE, "a": A1}, {"a": A2}, b"RESET ROLE; SET a = 2"),
    ],
)
def test_difference(present: Settings, wanted: Settings, sql: bytes) -> None:
    assert difference(present, wanted) == sql


INIT = b"SET a = 0 -- of ours"


@pytest.mark.parametrize(
    ("present", "wanted", "bare", "sql"),
    [
        ({"a": A1}, {"a": A1}, False, b""),
        ({}, {"a": A1}, False, b"SET a = 1"),
        ({"b": B1}, {}, False, b'RESET "b"; SET a = 0 -- of ours\n'),
        ({"a": A1, "b": B1}, {"a": A1}, False, b'RESET "b"; SET a = 0 -- of ours\n; SET a = 1'),
        ({}, {}, True, b"SET a = 0 -- of ours\n"),
        ({"role": ROLE}, {"role": ROLE}, True, b"RESET ROLE; SET a = 0 -- of ours\n; SET ROLE x"),
    ],
)
def test_what_the_initialization_query_has_set_comes_back(
    present: Settings, wanted: Settings, bare: bool, sql: bytes
) -> None:
    assert difference(present, wanted, INIT, bare=bare) == sql


def test_how_literals_are_read() -> None:
    state = SessionState({"TimeZone": b"SET x", "application_name": b"SET y"})
    assert state.reading() == b"SET x"
    state.started((Setting("datestyle", b"SET z"),))
    assert state.reads_anew, "from when it is asked for"
    state.done((Setting("datestyle", b"SET z"),))
    state.transaction_ended(committed=True)
    assert state.reading() == b"SET x;SET z"
    state = SessionState({})
    state.started((Setting("work_mem", b"SET w"),))
    assert not state.reads_anew and state.reading() == b""


def test_applied() -> None:
    defaults = {"a": A1}
    assert applied({}, defaults, [Setting("b", B1)]) == {"b": B1}
    assert applied({"a": A2, "b": B1}, defaults, [Setting("a", None)]) == {"a": A1, "b": B1}
    assert applied({"a": A2, "b": B1}, defaults, [ResetAll()]) == {"a": A1}
    assert applied({"a": A2, "role": ROLE}, defaults, [ResetAll()]) == {"role": ROLE, "a": A1}, (
        "RESET ALL keeps the role"
    )
    assert applied({"a": A2, "role": ROLE}, defaults, [DiscardAll()]) == {"a": A1}
    assert list(applied({"a": A1, "b": B1}, {}, [Setting("a", A2)])) == ["b", "a"], "in the order of setting"


def test_transactions() -> None:
    state = SessionState({})
    before = state.version
    state.done((Setting("a", A1),))
    assert state.waits and state.settings == {}
    state.transaction_ended(committed=False)
    assert state.settings == {} and state.version is before
    state.done((Setting("a", A1),))
    state.transaction_ended(committed=True)
    assert state.settings == {"a": A1} and state.version is not before
    state.done((RollbackTo(),))
    assert not state.pinned, "nothing was set in this transaction"
    state.done((Setting("a", A2), RollbackTo()))
    assert state.pinned, "which of them count cannot be told"


def test_pins() -> None:
    state = SessionState({})
    state.done((MaybeUnpin(),))
    assert state.started((Pin("x"), Pin("x"), Pin("y"))) == ["x", "y"]
    assert state.pinned and state.probeable and not state.may_unpin
    assert state.started((Pin("z", probe=False),)) == ["z"]
    assert not state.probeable
    state.unpin()
    assert not state.pinned and state.probeable
    state.started((Pin("x"),))
    state.done((DiscardAll(),))
    state.transaction_ended(committed=True)
    assert not state.pinned
    state.lasting = True
    state.started((Pin("x"),))
    state.unpin()
    assert state.pinned


@pytest.mark.parametrize(
    ("name", "value", "sql"),
    [
        ("a", "1", b"SELECT pg_catalog.set_config('a', '1', false)"),
        ("a", "it's", b"SELECT pg_catalog.set_config('a', 'it''s', false)"),
        ("a", "\\'", b"SELECT pg_catalog.set_config('a', E'\\\\''', false)"),
        ("a", "é", b"SELECT pg_catalog.set_config('a', E'\\xc3\\xa9', false)"),
        ("a', b);--", "1", b"SELECT pg_catalog.set_config('a'', b);--', '1', false)"),
    ],
)
def test_settings_of_the_startup_packet(name: str, value: str, sql: bytes) -> None:
    assert setting_sql(name, value) == sql
