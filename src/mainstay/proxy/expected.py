"""What a server connection will answer, one entry for each message sent to it, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mainstay.protocol.postgres.effects import Effect
from mainstay.proxy.statements import Statement

if TYPE_CHECKING:
    from mypy_extensions import i64

QUERY: Final = 0
PARSE: Final = 1
BIND: Final = 2
DESCRIBE: Final = 3
EXECUTE: Final = 4
CLOSE: Final = 5
SYNC: Final = 6
CALL: Final = 7

COMPACTED_AFTER: Final = 256
PLACES_KEPT: Final = 16


class Expected:
    """What the server will answer to one message. `swallow`: not for the client. `given`: we answer, the server does
    not."""

    __slots__ = ("ask", "effects", "given", "kind", "statement", "swallow", "undo")

    def __init__(
        self,
        kind: int,
        *,
        swallow: bool = False,
        given: bytes = b"",
        statement: Statement | None = None,
        effects: tuple[tuple[Effect, ...], ...] = (),
        undo: bytes | None = None,
        ask: str = "",
    ) -> None:
        self.kind = kind
        self.swallow = swallow
        self.given = given
        self.statement = statement
        self.effects = effects
        self.undo = undo
        self.ask = ask

    def ends_with_ready(self) -> bool:
        """Whether ReadyForQuery ends the answer."""
        return self.kind == QUERY or self.kind == SYNC or self.kind == CALL


class Expectations:
    """What is expected, in its order."""

    # Not a deque: compiled, this is called directly. The list is not emptied each time: places are used again.
    __slots__ = ("_begin", "_end", "_entries")

    def __init__(self) -> None:
        self._entries: list[Expected] = []
        self._begin: i64 = 0
        self._end: i64 = 0

    def __bool__(self) -> bool:
        return self._begin != self._end

    @property
    def places(self) -> int:
        """How many there is room for."""
        return len(self._entries)

    def first(self) -> Expected:
        """What comes next; there must be one."""
        return self._entries[self._begin]

    def entries(self) -> list[Expected]:
        """All of them."""
        return self._entries[self._begin : self._end]

    def append(self, expected: Expected) -> None:
        """One more, after the others."""
        end = self._end
        if end < len(self._entries):
            self._entries[end] = expected
        else:
            self._entries.append(expected)
        self._end = end + 1

    def popleft(self) -> Expected:
        """The first one goes."""
        begin = self._begin
        one = self._entries[begin]
        begin += 1
        if begin == self._end:
            self._begin = self._end = 0
            if len(self._entries) > PLACES_KEPT:
                del self._entries[PLACES_KEPT:]
        elif begin >= COMPACTED_AFTER and begin * 2 > self._end:  # never more than half of it is past
            del self._entries[:begin]
            self._end -= begin
            self._begin = 0
        else:
            self._begin = begin
        return one


# The usual case of each kind, shared: forward the answer, nothing to remember.
PLAIN_QUERY: Final = Expected(QUERY)
PLAIN_PARSE: Final = Expected(PARSE)
PLAIN_BIND: Final = Expected(BIND)
PLAIN_DESCRIBE: Final = Expected(DESCRIBE)
PLAIN_EXECUTE: Final = Expected(EXECUTE)
PLAIN_CLOSE: Final = Expected(CLOSE)
PLAIN_SYNC: Final = Expected(SYNC)
PLAIN_CALL: Final = Expected(CALL)

UNKNOWN: Final = Statement(b"", b"", (), b"", False)
"""What is prepared without a name is not known."""
