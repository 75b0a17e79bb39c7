"""Prepared statements by what they are, shared by clients and server connections.

Not compiled with the rest of the hot path: nothing compiled can be referred to weakly.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from mainstay.protocol.postgres.effects import Effect


class Statement:
    """A prepared statement by what it is: text and parameter types. Two clients' equal ones are one on a server."""

    __slots__ = ("__weakref__", "effects", "name", "rest")

    def __init__(self, name: bytes, rest: bytes, effects: tuple[Effect, ...]) -> None:
        self.name = name
        self.rest = rest
        self.effects = effects


class Statements:
    """Every statement that some client or server connection holds."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[bytes, Statement] = WeakValueDictionary()
        self._count = 0

    def intern(self, rest: bytes, effects: tuple[Effect, ...]) -> Statement:
        """The statement of this text and these types (`rest` of a Parse message)."""
        found = self._known.get(rest)
        if found is None:
            self._count += 1
            found = self._known[rest] = Statement(b"mainstay_%d" % self._count, rest, effects)
        return found

    def renew(self) -> None:
        """A text parsed from now on is a statement of its own: those of before have plans for tables as they were."""
        self._known.clear()
