"""What a reload does: exactly what differs, what can be changed now, and back to the default what nobody wants."""

from __future__ import annotations

import pytest

from mainstay.engines.mysql_family.variables import Variable, pending_restart, statements


def variable(
    name: str, kind: str, value: str, *, read_only: str = "NO", origin: str = "COMPILE-TIME", **more: str
) -> Variable:
    return Variable(name, kind, read_only, value, origin, **more)


PACKET = variable(
    "max_allowed_packet", "BIGINT UNSIGNED", "16777216", smallest="1024", largest="1073741824", block="1024"
)
TLS = variable("require_secure_transport", "BOOLEAN", "OFF")
MODE = variable("sql_mode", "SET", "STRICT_TRANS_TABLES,ANSI")
WORDS = variable("ft_min_word_len", "INT UNSIGNED", "4", read_only="YES", smallest="1", largest="84", block="1")


def known(*variables: Variable) -> dict[str, Variable]:
    return {one.name: one for one in variables}


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (PACKET, "16777216", "33554432"),
        (PACKET, "16777217", "33554432"),  # rounded down to its block
        (TLS, "0", "1"),
        (TLS, "off", "ON"),
        (MODE, "ansi,strict_trans_tables", "ANSI"),
        (variable("long_query_time", "DOUBLE", "10.000000"), "10", "0.5"),
        (variable("binlog_format", "ENUM", "MIXED"), "mixed", "ROW"),
        (variable("init_connect", "VARCHAR", "SET x"), "SET x", "set x"),
    ],
)
def test_only_what_differs_is_set(one: Variable, same: str, other: str) -> None:
    assert statements(known(one), {one.name: same}, frozenset()) == []
    assert len(statements(known(one), {one.name: other}, frozenset())) == 1


def test_values_are_written_as_the_engine_takes_them() -> None:
    wanted = {"max_allowed_packet": "99999999999", "require_secure_transport": "1", "sql_mode": "it's"}
    assert statements(known(PACKET, TLS, MODE), wanted, frozenset()) == [
        "SET GLOBAL `max_allowed_packet` = 1073741824",
        "SET GLOBAL `require_secure_transport` = 1",
        "SET GLOBAL `sql_mode` = 'it\\'s'",
    ]


def test_what_was_given_and_is_not_wanted_any_more_goes_back() -> None:
    given = variable("long_query_time", "DOUBLE", "1.0", origin="CONFIG")
    set_since = variable("net_read_timeout", "INT UNSIGNED", "99", origin="SQL")
    found = statements(known(given, set_since, PACKET), {}, frozenset({"net_read_timeout"}))
    assert found == ["SET GLOBAL `long_query_time` = DEFAULT"]


def test_static_variables_wait_for_a_restart() -> None:
    assert statements(known(WORDS), {"ft_min_word_len": "7"}, frozenset()) == []
    assert pending_restart(known(WORDS), {"ft_min_word_len": "7", "unknown": "1"}) == ("ft_min_word_len",)
    assert pending_restart(known(WORDS), {"ft_min_word_len": "4"}) == ()
