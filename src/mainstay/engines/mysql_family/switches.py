"""Variables that are a list of others or of switches in one text ("mrr=on,firstmatch=off"), as DB parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable

TRACKED = "session_track_system_variables"
"""A list of variables, with which neither engine starts if one is not there."""

ONE = re.compile(r"(?P<name>\w+)=(?:on|off)", re.IGNORECASE)
STATES = ("on", "off", "default")


def switches_of(value: str) -> tuple[str, ...]:
    """The names of the switches in a whole value of such a variable; none if it is no such value."""
    found = [ONE.fullmatch(part) for part in value.split(",")]
    return tuple(one["name"] for one in found if one is not None) if all(found) else ()


def allowed_values(names: Iterable[str]) -> str:
    """What each entry of the list may be that such a parameter is: one switch in one state, or all as they were."""
    entries = (f"{name}={state}" for name in names if name != "default" for state in STATES)
    return ",".join(["default", *entries])


def tracked_variables(names: Iterable[str]) -> str:
    """What each entry of `TRACKED` may be: one of these variables, or all of them."""
    return ",".join(["*", *sorted(names)])
