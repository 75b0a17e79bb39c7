"""Settings of a running engine: which of them differ from what is wanted, and which of those can be changed now.

Pure. Values are compared as the engine shows them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mainstay.engines.mysql_family.quoting import identifier, literal

SWITCHES = {"on": "1", "true": "1", "yes": "1", "off": "0", "false": "0", "no": "0"}
NUMBERS = frozenset({"INT", "INT UNSIGNED", "BIGINT", "BIGINT UNSIGNED"})
GIVEN = frozenset({"CONFIG", "SQL"})
"""Origins of a value that somebody has set: the option file, or we ourselves since the start."""


class Variable(msgspec.Struct, frozen=True):
    """One setting, in the words of MariaDB's information_schema.SYSTEM_VARIABLES."""

    name: str
    kind: str
    read_only: str
    value: str
    origin: str
    smallest: str | None = None
    largest: str | None = None
    block: str | None = None

    def shows(self, wanted: str) -> bool:
        """Whether this is what the engine makes of the wanted value."""
        return _comparable(self, self.value) == _comparable(self, wanted)


def statements(variables: Mapping[str, Variable], wanted: Mapping[str, str], ours: frozenset[str]) -> list[str]:
    """SET GLOBAL for every variable that can be changed now and is not as wanted.

    What somebody has set before and nobody wants any more goes back to its default; `ours` are left alone.
    """
    found = []
    for name, variable in sorted(variables.items()):
        if variable.read_only == "YES" or name in ours or name.startswith("gtid_"):
            continue
        if name in wanted:
            if not variable.shows(wanted[name]):
                found.append(f"SET GLOBAL {identifier(name)} = {_as_sql(variable, wanted[name])}")
        elif variable.origin in GIVEN:
            found.append(f"SET GLOBAL {identifier(name)} = DEFAULT")
    return found


def pending_restart(variables: Mapping[str, Variable], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the variables that only a restart makes what is wanted."""
    return tuple(
        name
        for name, value in sorted(wanted.items())
        if (variable := variables.get(name)) is not None and variable.read_only == "YES" and not variable.shows(value)
    )


def _as_sql(variable: Variable, value: str) -> str:
    if variable.kind in NUMBERS or variable.kind == "DOUBLE":
        return str(_number(variable, value))
    if variable.kind == "BOOLEAN" and value.lower() in {"1", "0", *SWITCHES}:
        return SWITCHES.get(value.lower(), value)  # in quotes the engine takes ON and OFF only
    return literal(value)


def _comparable(variable: Variable, value: str) -> object:
    if variable.kind == "BOOLEAN":
        return SWITCHES.get(value.lower(), value)
    if variable.kind in NUMBERS or variable.kind == "DOUBLE":
        return _number(variable, value)
    if variable.kind in ("SET", "FLAGSET"):
        return frozenset(part.strip().lower() for part in value.split(",") if part.strip())
    return value.lower() if variable.kind == "ENUM" else value


def _number(variable: Variable, text: str) -> int | float | str:
    """As the engine adjusts it: within its bounds, down to a multiple of its block size."""
    try:
        number = float(text) if variable.kind == "DOUBLE" else int(text)
        if variable.largest is not None:
            number = min(number, type(number)(variable.largest))
        if variable.smallest is not None:
            number = max(number, type(number)(variable.smallest))
        block = int(variable.block or 0)
    except ValueError:
        return text
    return number - number % block if block > 1 and isinstance(number, int) else number
