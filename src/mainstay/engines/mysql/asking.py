"""What a MySQL build says of its variables, asked of a scratch server once a build.

No table tells all of it: the option file's names are those that `mysqld --verbose --help` lists; bounds are in
performance_schema.variables_info, kinds and texts since MySQL 9.1 in variables_metadata. Whether a variable can be
changed in a running server, and the words that an enumeration takes, are found out by trying.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import pymysql

from mainstay.engines.mysql import template
from mainstay.engines.mysql.bootstrap import SHARE, bootstrap_command, server
from mainstay.engines.mysql.variables import READ_ONLY, variable_of
from mainstay.engines.mysql_family.layout import arguments, place_options
from mainstay.engines.mysql_family.quoting import identifier
from mainstay.engines.mysql_family.scratch import DIRECTORY_PREFIX, Scratch, ask
from mainstay.engines.mysql_family.sessions import number_of
from mainstay.host.processes import SAFE_ENVIRONMENT, engine_user
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent

HELP_TIMEOUT_S = 30.0
OPTION_NAMES = {"time_zone": "default_time_zone"}
"""The name of the option where it is not that of the variable."""

VARIABLES = (
    "SELECT v.VARIABLE_NAME, v.VARIABLE_VALUE, i.MIN_VALUE, i.MAX_VALUE FROM performance_schema.global_variables v"
    " JOIN performance_schema.variables_info i USING (VARIABLE_NAME) ORDER BY 1"
)
METADATA = "SELECT VARIABLE_NAME, DATA_TYPE, DOCUMENTATION FROM performance_schema.variables_metadata"
NO_SUCH_TABLE = 1146
KINDS = {
    "Integer": "integer", "Numeric": "float", "Boolean": "boolean", "Enumeration": "enum", "Set": "set",
    "String": "string",
}  # fmt: skip
LOOKS_LIKE = {"BIGINT": "integer", "DOUBLE": "float", "BOOLEAN": "boolean", "ENUM": "enum", "SET": "set"}
CHOICES = {
    "character_set_server": "SELECT GROUP_CONCAT(CHARACTER_SET_NAME ORDER BY 1) FROM information_schema.CHARACTER_SETS",
    "collation_server": "SELECT GROUP_CONCAT(COLLATION_NAME ORDER BY 1) FROM information_schema.COLLATIONS",
}
MEMBERS_MAX = 64
UNREADABLE_DIGITS = 16
"""The table shows some bounds of fractions as the integer that has the same bits."""

HELP_LINE = re.compile(r"^(?P<name>[a-z][a-z0-9-]*)\s+(?:\S.*)?$")
"""Without a value is what is empty, as init_connect is."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One variable. `kind`: integer, float, boolean, enum, set or string."""

    name: str
    kind: str
    static: bool
    default: str
    smallest: str = ""
    largest: str = ""
    choices: str = ""
    comment: str = ""


def ask_engine(build: EngineBuild, user_name: str) -> list[Row]:
    """Runs a scratch server of the build for a moment. Raises what `scratch.ask` raises."""
    options = _options(build, user_name)
    places = arguments(place_options(build, *SHARE))
    own = ["--skip-networking", "--mysqlx=0", "--secure-file-priv=NULL", "--innodb-buffer-pool-size=32M"]
    scratch = Scratch(
        make=bootstrap_command(build),
        serve=[server(build), "--no-defaults", *places, *own],
        made=lambda data: template.keep(build, data),
    )
    return ask(build, user_name, scratch, lambda cursor: _rows(cursor, options))


def _options(build: EngineBuild, user_name: str) -> frozenset[str]:
    """Names that may stand in an option file, in the form of variables."""
    user = engine_user(user_name)
    credentials: dict[str, Any] = {}
    if user.user_id is not None:  # the server runs for no root, not even to say this
        credentials = {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    done = subprocess.run(
        [server(build), "--no-defaults", "--verbose", "--help", *arguments(place_options(build, *SHARE))],
        capture_output=True, text=True, check=False, timeout=HELP_TIMEOUT_S, cwd="/",
        env={**SAFE_ENVIRONMENT, **build.environment}, **credentials,
    )  # fmt: skip
    names = options_of(done.stdout)
    if not names:
        raise Permanent(f"{build.name} does not list its options: {done.stderr.strip()[-500:]}")
    return names | frozenset(OPTION_NAMES)


def options_of(help_text: str) -> frozenset[str]:
    """The names in the table at the end of what --verbose --help prints."""
    _before, _line, table = help_text.rpartition("\n----")
    found = (HELP_LINE.match(line) for line in table.splitlines()[1:])
    return frozenset(one["name"].replace("-", "_") for one in found if one is not None)


def _rows(cursor: Any, options: frozenset[str]) -> list[Row]:
    cursor.execute("SET group_concat_max_len = 1000000")
    choices = {name: _one(cursor, query) for name, query in CHOICES.items()}
    metadata = _metadata(cursor)
    cursor.execute(VARIABLES)
    rows = []
    for name, value, smallest, largest in cursor.fetchall():
        name = str(name).lower()
        if name not in options:
            continue
        looks = variable_of(name, str(value), "", str(smallest), str(largest)).kind
        kind, comment = metadata.get(name, (LOOKS_LIKE.get(looks, "string"), ""))
        kind = "string" if "=" in str(value) else kind  # switches, "a=on,b=off", which are set one by one
        static = _is_static(cursor, name)
        if name in choices:
            words = choices[name]
        else:
            words = _words(cursor, name, kind, str(value)) if kind in ("enum", "set") and not static else ""
        bounded = kind == "integer" or (kind == "float" and len(str(largest)) < UNREADABLE_DIGITS)
        rows.append(
            Row(
                name=name,
                kind=kind,
                static=static,
                default=_default(kind, str(value)),
                smallest=str(smallest) if bounded else "",
                largest=str(largest) if bounded else "",
                choices=words,
                comment=comment,
            )
        )
    return rows


def _one(cursor: Any, query: str) -> str:
    cursor.execute(query)
    return str(cursor.fetchone()[0])


def _metadata(cursor: Any) -> dict[str, tuple[str, str]]:
    """Kind and text of every variable; nothing from a version that has no such table."""
    try:
        cursor.execute(METADATA)
    except pymysql.err.MySQLError as error:
        if number_of(error) == NO_SUCH_TABLE:
            return {}
        raise
    return {str(name).lower(): (KINDS.get(str(kind), "string"), str(text)) for name, kind, text in cursor.fetchall()}


def _default(kind: str, value: str) -> str:
    if DIRECTORY_PREFIX in value:
        return ""  # a path that follows the place of the data
    return {"ON": "1", "OFF": "0", "YES": "1", "NO": "0"}.get(value, value) if kind == "boolean" else value


def _is_static(cursor: Any, name: str) -> bool:
    quoted = identifier(name)
    return _refusal(lambda: cursor.execute(f"SET GLOBAL {quoted} = @@GLOBAL.{quoted}")) == READ_ONLY


def _refusal(attempt: Callable[[], object]) -> int:
    """The number of the error, 0 without one."""
    try:
        attempt()
    except pymysql.err.MySQLError as error:
        return number_of(error)
    return 0


def _words(cursor: Any, name: str, kind: str, value: str) -> str:
    """The words that an enumeration or a set takes: what becomes of each number that it takes."""
    quoted, found = identifier(name), dict[str, None]()
    for number in range(MEMBERS_MAX):
        chosen = number if kind == "enum" else 1 << number
        if _refusal(lambda chosen=chosen: cursor.execute(f"SET GLOBAL {quoted} = {chosen}")):  # type: ignore[misc]
            if kind == "enum" and number > 1:
                break
            continue
        shown = _one(cursor, f"SELECT @@GLOBAL.{quoted}")
        found |= dict.fromkeys(shown.split(",") if kind == "set" else [shown])
    cursor.execute(f"SET GLOBAL {quoted} = %s", (value,))
    return ",".join(word for word in found if word)
