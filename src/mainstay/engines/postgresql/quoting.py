"""The one place that quotes what becomes part of PostgreSQL text: identifiers, literals, configuration values."""

from __future__ import annotations

from mainstay.model.errors import Permanent


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise Permanent("a name or value for PostgreSQL contains a NUL character")


def identifier(name: str) -> str:
    """`name` as a delimited identifier (PostgreSQL manual 4.1.1)."""
    _refuse_nul(name)
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as a string constant, independent of standard_conforming_strings (manual 4.1.2)."""
    _refuse_nul(text)
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else " E'" + quoted.replace("\\", "\\\\") + "'"


def setting(value: str) -> str:
    """`value` as it stands in postgresql.conf (manual 20.1.2)."""
    _refuse_nul(value)
    if "\n" in value or "\r" in value:
        raise Permanent("a parameter value contains a line break")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
