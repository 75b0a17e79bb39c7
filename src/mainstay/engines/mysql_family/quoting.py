"""The one place that quotes what becomes part of MariaDB's or MySQL's text: identifiers, literals, option file values.

Literals hold in sessions whose sql_mode has neither ANSI_QUOTES nor NO_BACKSLASH_ESCAPES: ours set it themselves.
"""

from __future__ import annotations

from mainstay.model.errors import Permanent


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise Permanent("a name or value for the engine contains a NUL character")


def identifier(name: str) -> str:
    """`name` as a quoted identifier (MariaDB: Identifier Names; MySQL manual 11.2)."""
    _refuse_nul(name)
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """`text` as a string constant (MariaDB: String Literals; MySQL manual 11.1.1)."""
    _refuse_nul(text)
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def account(user: str, host: str) -> str:
    """An account's name as it stands in CREATE USER and GRANT."""
    return f"{literal(user)}@{literal(host)}"


def option_value(value: str) -> str:
    """`value` as it stands in an option file: quoted, backslashes doubled (MySQL manual 6.2.2.2)."""
    _refuse_nul(value)
    if "\n" in value or "\r" in value:
        raise Permanent("a parameter value contains a line break")
    return '"' + value.replace("\\", "\\\\") + '"'
