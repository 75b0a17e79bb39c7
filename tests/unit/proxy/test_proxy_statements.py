"""Prepared statements by what they are."""

from __future__ import annotations

from mainstay.proxy.statements import KEPT_BYTES_MAX, KEPT_MAX, LONG_BYTES, Statements


def test_equal_texts_are_one_statement_until_renewed() -> None:
    statements = Statements()
    one = statements.intern(b"SELECT 1\0\0\0", ())
    assert statements.intern(b"SELECT 1\0\0\0", ()) is one
    assert statements.intern(b"SELECT 2\0\0\0", ()).name != one.name
    statements.renew()
    other = statements.intern(b"SELECT 1\0\0\0", ())
    assert other is not one and other.name != one.name, "a plan of the old name may be stale"
    assert statements.intern(b"SELECT 1\0\0\0", ()) is other


def test_no_more_texts_are_kept_than_allowed() -> None:
    statements = Statements()
    first = statements.intern(b"SELECT 1\0\0\0", ())
    often = statements.intern(b"SELECT 2\0\0\0", ())
    for number in range(KEPT_MAX - 1):
        statements.intern(b"SELECT 'other %d'\0\0\0" % number, ())
        assert statements.intern(b"SELECT 2\0\0\0", ()) is often, "what is asked for stays"
    assert statements.intern(b"SELECT 1\0\0\0", ()).name != first.name, "a name is never used for another statement"


def test_no_more_text_is_kept_than_allowed() -> None:
    statements = Statements()
    small = statements.intern(b"SELECT 1\0\0\0", ())
    for number in range(KEPT_BYTES_MAX // LONG_BYTES + 1):
        statements.intern(b"SELECT %d, '" % number + b"x" * (LONG_BYTES - 40) + b"'\0\0\0", ())
    long = b"SELECT '" + b"x" * LONG_BYTES + b"'\0\0\0"
    assert statements.intern(long, ()).rest == long, "also what is too long to be kept can be prepared"
    assert statements.intern(b"SELECT 1\0\0\0", ()).name != small.name
    assert statements.intern(b"SELECT 1\0\0\0", ()) is statements.intern(b"SELECT 1\0\0\0", ())


def test_a_statement_is_shared_only_by_those_who_read_it_alike() -> None:
    statements = Statements()
    text = b"SELECT '2026-01-02'::timestamptz\0\0\0"
    here, there = (statements.intern(text, (), zone) for zone in (b"SET timezone = 1", b"SET timezone = 2"))
    assert here.name != there.name
    assert statements.intern(text, (), b"SET timezone = 1") is here
    assert statements.alone(text, (), b"SET timezone = 1").name != here.name


def test_a_statement_that_holds_the_moment_of_its_parsing_is_nobody_elses() -> None:
    statements = Statements()
    for text in (b"SELECT 'now'::timestamptz\0\0\0", b"SELECT 1 WHERE d > ' Today 12:00'\0\0\0"):
        assert statements.intern(text, ()).name != statements.intern(text, ()).name
    assert statements.intern(b"SELECT now(), 'x'\0\0\0", ()) is statements.intern(b"SELECT now(), 'x'\0\0\0", ())
