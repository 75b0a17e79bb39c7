"""Which statements are prepared on a server connection, as far as its answers have told. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from mainstay.proxy.statements import Statement

STATEMENTS_MAX: Final = 500
"""Prepared statements kept on one server connection; the longest unused one goes first."""


class Prepared:
    """The statements of one connection, by our names for them."""

    __slots__ = ("_doubtful", "_known", "_latest", "_unconfirmed", "batch")

    def __init__(self) -> None:
        self.batch = 0
        """Number of the batch of messages that is being sent; it ends with a Sync."""

        self._known: OrderedDict[bytes, Statement] = OrderedDict()
        self._latest: Statement | None = None
        """The last one of `_known`, if it is known which that is."""

        self._unconfirmed: dict[bytes, int] = {}
        """Statements whose Parse is not answered yet, with the number of its batch."""

        self._doubtful: set[bytes] = set()
        """Statements of which it is not known whether they are prepared: some Parse or Close was skipped."""

    def knows(self, statement: Statement) -> bool:
        """Whether it is prepared here, or was sent to be in this very batch, which fails as a whole or not at all."""
        if statement is self._latest and not self._unconfirmed:
            return True
        name = statement.name
        if name not in self._known:
            return False
        if self._unconfirmed and self._unconfirmed.get(name, self.batch) != self.batch:
            return False
        self._known.move_to_end(name)
        self._latest = statement
        return True

    def add(self, statement: Statement) -> list[Statement]:
        """It will be prepared now; returns what must be closed before."""
        name = statement.name
        closing: list[Statement] = []
        if name in self._doubtful or name in self._unconfirmed:
            self._doubtful.discard(name)
            closing.append(statement)
        self._known[name] = statement
        self._latest = statement
        self._unconfirmed[name] = self.batch
        if len(self._known) > STATEMENTS_MAX:
            closing.append(self._known.popitem(last=False)[1])
        return closing

    def confirmed(self, statement: Statement) -> None:
        """A Parse or Close of it was answered."""
        self._unconfirmed.pop(statement.name, None)

    def undone(self, statement: Statement) -> None:
        """Its Parse failed or was skipped."""
        self._known.pop(statement.name, None)
        self._latest = None
        self._unconfirmed.pop(statement.name, None)
        self._doubtful.add(statement.name)

    def doubt(self, statement: Statement) -> None:
        """A Close of it was skipped."""
        self._doubtful.add(statement.name)

    def clear(self) -> None:
        """The engine has forgotten them all."""
        self._latest = None
        self._known.clear()
