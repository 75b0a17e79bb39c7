"""Prepared statements by what they are."""

from __future__ import annotations

from mainstay.proxy.statements import Statements


def test_equal_texts_are_one_statement_until_renewed() -> None:
    statements = Statements()
    one = statements.intern(b"SELECT 1\0\0\0", ())
    assert statements.intern(b"SELECT 1\0\0\0", ()) is one
    assert statements.intern(b"SELECT 2\0\0\0", ()).name != one.name
    statements.renew()
    other = statements.intern(b"SELECT 1\0\0\0", ())
    assert other is not one and other.name != one.name, "a plan of the old name may be stale"
    assert statements.intern(b"SELECT 1\0\0\0", ()) is other
