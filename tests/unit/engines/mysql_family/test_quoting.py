"""Names and values that want to be something else stay names and values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.engines.mysql_family.option_file import render
from mainstay.engines.mysql_family.quoting import account, identifier, literal, option_value
from mainstay.model.errors import Permanent


def test_identifiers_and_literals() -> None:
    assert identifier("a`b") == "`a``b`"
    assert literal("a'b\\") == "'a\\'b\\\\'"
    assert account("o'neil", "%") == "'o\\'neil'@'%'"
    assert option_value("C:\\new") == '"C:\\\\new"'


@given(st.text(st.characters(exclude_characters="\0")))
def test_a_literal_ends_where_it_ends(text: str) -> None:
    """Read as the engine reads it (backslash escapes on), a literal is its text, and nothing is left behind it."""
    quoted, found, at = literal(text), [], 1
    while quoted[at] != "'":
        at += quoted[at] == "\\"
        found.append(quoted[at])
        at += 1
    assert at == len(quoted) - 1 and "".join(found) == text


@pytest.mark.parametrize("quote", [identifier, literal, option_value])
def test_nul_is_refused(quote: object) -> None:
    with pytest.raises(Permanent, match="NUL"):
        quote("a\0b")  # type: ignore[operator]


def test_a_value_cannot_begin_another_option() -> None:
    with pytest.raises(Permanent, match="line break"):
        render("mariadbd", {"init_connect": "SET a=1\nplugin_dir=/tmp"})


def test_of_two_settings_the_later_one_wins() -> None:
    text = render("mariadbd", {"port": "1", "max_connections": "5"}, {"port": "3306"})
    assert text.splitlines()[1:] == ["[mariadbd]", 'port = "3306"', 'max_connections = "5"']
