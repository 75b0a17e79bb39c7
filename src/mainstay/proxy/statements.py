"""Prepared statements by what they are, shared by clients and server connections."""

from __future__ import annotations

from typing import Final

from mainstay.protocol.postgres.effects import Effect

KEPT_MAX: Final = 5_000
KEPT_BYTES_MAX: Final = 8_388_608


class Statement:
    """A prepared statement by what it is: text and parameter types. Two clients' equal ones are one on a server."""

    __slots__ = ("effects", "name", "rest")

    def __init__(self, name: bytes, rest: bytes, effects: tuple[Effect, ...]) -> None:
        self.name = name
        self.rest = rest
        self.effects = effects


class Statements:
    """The statements that clients have prepared last: at most `KEPT_MAX` of them and `KEPT_BYTES_MAX` of their text.

    One that is forgotten here lives on where it is prepared; prepared anew, it is another one, with a name of its own.
    (Not by weak references: nothing that is compiled can have them.)
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Statement] = {}
        self._bytes = 0
        self._count = 0

    def intern(self, rest: bytes, effects: tuple[Effect, ...]) -> Statement:
        """The statement of this text and these types (`rest` of a Parse message)."""
        known = self._known
        found = known.pop(rest, None)
        if found is None:
            self._count += 1
            found = Statement(b"mainstay_%d" % self._count, rest, effects)
            self._bytes += len(rest)
        known[rest] = found  # the last one now
        while len(known) > KEPT_MAX or self._bytes > KEPT_BYTES_MAX:
            oldest = next(iter(known))
            del known[oldest]
            self._bytes -= len(oldest)
        return found

    def renew(self) -> None:
        """A text parsed from now on is a statement of its own: those of before have plans for tables as they were."""
        self._known.clear()
        self._bytes = 0
