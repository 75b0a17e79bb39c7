"""What a running MySQL says of its settings.

It has no word for whether a variable can be changed while it runs, so that is tried, once a version and variable, with
the value that the variable has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from mainstay.engines.mysql_family.quoting import identifier
from mainstay.engines.mysql_family.sessions import Error, Session, number_of, silent
from mainstay.engines.mysql_family.variables import GIVEN, SWITCHES, Variable

QUERY = (
    "SELECT v.VARIABLE_NAME, v.VARIABLE_VALUE, i.VARIABLE_SOURCE, i.MIN_VALUE, i.MAX_VALUE"
    " FROM performance_schema.global_variables v JOIN performance_schema.variables_info i USING (VARIABLE_NAME)"
)
ORIGINS = {"EXPLICIT": "CONFIG", "COMMAND_LINE": "CONFIG", "DYNAMIC": "SQL"}
"""Sources of a value that somebody has set (MySQL manual 29.12.14.2), in the family's words."""

FORMER_NAMES = re.compile("slave|master")
"""Variables that are there under a newer name as well, and by that name in the option file."""

READ_ONLY = 1238
WHOLE = re.compile(r"-?\d+")
DECIMAL = re.compile(r"-?\d+\.\d+")
WORD = re.compile(r"[A-Za-z0-9_+-]+")


class Variables:
    """The variables of running engines; remembers which of them are static."""

    def __init__(self, ours: frozenset[str]) -> None:
        self._ours = ours
        self._static: dict[tuple[str, str], bool] = {}

    async def of(self, connection: Session, version: str, wanted: Mapping[str, str]) -> dict[str, Variable]:
        """Every variable by name. Of one that differs from `wanted` it is known whether it is static."""
        known = {}
        for name, value, source, smallest, largest in await connection.execute(QUERY):
            if FORMER_NAMES.search(str(name)):
                continue
            variable = variable_of(str(name).lower(), str(value), str(source), str(smallest), str(largest))
            key = (version, variable.name)
            if key not in self._static and self._matters(variable, wanted):
                self._static[key] = await is_static(connection, variable.name)
            static = "YES" if self._static.get(key) else "NO"
            known[variable.name] = msgspec.structs.replace(variable, read_only=static)
        return known

    def _matters(self, variable: Variable, wanted: Mapping[str, str]) -> bool:
        if variable.name in self._ours:
            return False
        if variable.name in wanted:
            return not variable.shows(wanted[variable.name])
        return variable.origin in GIVEN


def variable_of(name: str, value: str, source: str, smallest: str, largest: str) -> Variable:
    """One row of QUERY. Its kind is what its value looks like: there is no other word for it before MySQL 9.1."""
    kind, bounded = "VARCHAR", largest not in ("", "0", "None")
    if WHOLE.fullmatch(value) and bounded:
        kind = "BIGINT"
    elif DECIMAL.fullmatch(value):
        kind = "DOUBLE"
    elif value.lower() in SWITCHES:
        kind = "BOOLEAN"
    elif name in ("sql_mode", "optimizer_switch") or ("," in value and all(map(WORD.fullmatch, value.split(",")))):
        kind = "SET"
    elif WORD.fullmatch(value):
        kind = "ENUM"
    bounds = {"smallest": smallest, "largest": largest} if kind in ("BIGINT",) else {}
    return Variable(name, kind, "NO", value, ORIGINS.get(source, source), **bounds)


async def is_static(connection: Session, name: str) -> bool:
    """Whether the variable can only be changed by a restart. Raises `Error` if the engine does not answer."""
    quoted = identifier(name)
    try:
        await connection.execute(f"SET GLOBAL {quoted} = @@GLOBAL.{quoted}")
    except Error as error:
        if silent(error):
            raise
        return number_of(error) == READ_ONLY
    return False
