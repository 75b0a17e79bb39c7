"""Prepared statements by what they are, shared by clients and server connections."""

from __future__ import annotations

import re
from typing import Final

from mainstay.protocol.postgres.effects import Effect

KEPT_MAX: Final = 5_000
KEPT_BYTES_MAX: Final = 8_388_608
LONG_BYTES: Final = 65_536
"""A longer text is not searched, which would hold everybody up, and not shared."""


_CLOCK = re.compile(rb"'[^']*\b(?:now|today|tomorrow|yesterday)\b", re.IGNORECASE)
"""Literals whose value is that of the moment in which the statement is parsed (PostgreSQL documentation 8.5.1.4)."""


class Statement:
    """A prepared statement by what it is: text, parameter types, and the settings by which its literals are read. Two
    clients' equal ones are one on a server, if it is `shared`.
    """

    __slots__ = ("effects", "name", "reading", "rest", "shared")

    def __init__(self, name: bytes, rest: bytes, effects: tuple[Effect, ...], reading: bytes, shared: bool) -> None:
        self.name = name
        self.rest = rest
        self.effects = effects
        self.reading = reading
        self.shared = shared


class Statements:
    """The statements that clients have prepared last: at most `KEPT_MAX` of them and `KEPT_BYTES_MAX` of their text.

    One that is forgotten here lives on where it is prepared; prepared anew, it is another one, with a name of its own.
    (Not by weak references: nothing that is compiled can have them.)
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], Statement] = {}
        self._bytes = 0
        self._count = 0

    def intern(self, rest: bytes, effects: tuple[Effect, ...], reading: bytes = b"") -> Statement:
        """The statement of this text and these types (`rest` of a Parse message), read by these settings."""
        known = self._known
        key = (reading, rest)
        found = known.pop(key, None)
        if found is None:
            if len(rest) > LONG_BYTES or _CLOCK.search(rest) is not None:
                return self.alone(rest, effects, reading)
            self._count += 1
            found = Statement(b"mainstay_%d" % self._count, rest, effects, reading, True)
            self._bytes += len(reading) + len(rest)
        known[key] = found  # the last one now
        while len(known) > KEPT_MAX or self._bytes > KEPT_BYTES_MAX:
            oldest = next(iter(known))
            del known[oldest]
            self._bytes -= len(oldest[0]) + len(oldest[1])
        return found

    def alone(self, rest: bytes, effects: tuple[Effect, ...], reading: bytes) -> Statement:
        """A statement of one client only: what it means cannot be told from its text and settings."""
        self._count += 1
        return Statement(b"mainstay_%d" % self._count, rest, effects, reading, False)

    def renew(self) -> None:
        """A text parsed from now on is a statement of its own: those of before have plans for tables as they were."""
        self._known.clear()
        self._bytes = 0
