"""How many connections a proxy may have to its engine, and who says so where several workers share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mainstay.proxy.server import ServerConnection

RESERVED_CONNECTIONS = 3
"""Of max_connections the engine keeps some for superusers (superuser_reserved_connections)."""


def budget(max_connections: int, percent: int) -> int:
    """How many connections a proxy may have to an engine with this limit. One, while it is not known (0)."""
    if not max_connections:
        return 1
    return max(1, min(max_connections * percent // 100, max_connections - RESERVED_CONNECTIONS))


class Lender(Protocol):
    """Where a worker's connections come from when workers share the budget. `limit` is how many it may have now, and
    `idle_allowed` how many of them idle; what it lacks it asks for and gets later.
    """

    limit: int
    idle_allowed: int

    @property
    def spare(self) -> int:
        """How many it was given and has not used yet."""

    def claim(self) -> bool:
        """Takes one of the spare ones for a connection that is opened now; False if there is none."""

    def lacks(self) -> None:
        """What it lacks may have changed."""

    def disconnected(self, connection: ServerConnection) -> None:
        """Its socket is closed."""

    def learned(self, max_connections: int) -> None:
        """The engine has told its limit."""
