"""The idle connections of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_extensions import i64

    from mainstay.proxy.server import ServerConnection

LOOKED_AT: Final = 8
"""So many are looked at for one that has the session's settings already."""


class IdleConnections:
    """In the order in which they came free: the last one is taken first, others may be closed for want of use."""

    # A list alone gives its room back when the last one is taken, and asks for it anew: with a client or two that is in
    # each statement. Here places are used again.
    __slots__ = ("_count", "_places")

    def __init__(self) -> None:
        self._places: list[ServerConnection | None] = []
        self._count: i64 = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, connection: object) -> bool:
        return any(one is connection for one in self.all())

    def all(self) -> list[ServerConnection]:
        """All of them."""
        return [one for one in self._places if one is not None]

    def add(self, connection: ServerConnection) -> None:
        """One more; it must not be here yet."""
        if self._count < len(self._places):
            self._places[self._count] = connection
        else:
            self._places.append(connection)
        self._count += 1

    def take(self, version: object) -> ServerConnection | None:
        """One that is idle no more, best one with settings of this version; None if there is none."""
        last = self._count - 1
        if last < 0:
            return None
        at = last
        while at >= 0 and last - at < LOOKED_AT:
            one = self._places[at]
            if one is not None and one.applied_version is version:
                self._vacate(at)
                return one
            at -= 1
        one = self._places[last]
        self._vacate(last)
        return one

    def remove(self, connection: ServerConnection) -> None:
        """This one is idle no more; it must be here."""
        self._vacate(self._places.index(connection))

    def _vacate(self, at: i64) -> None:
        """Vacant places are the last ones."""
        self._count -= 1
        if at == self._count:
            self._places[at] = None
        else:
            del self._places[at]
