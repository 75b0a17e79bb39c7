"""What MariaDB's and MySQL's binary logs say in different ways: how transactions are called, and where one ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from mainstay.engines.mysql_family.binlog import FORMAT_DESCRIPTION, Event


class Gtid(Protocol):
    """The name of a transaction. Two that are equal name the same one."""

    def __str__(self) -> str:
        """As the engine writes it."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says of a transaction where it begins.

    `second` is the event's timestamp (epoch seconds), `committed_us` when the transaction was committed (epoch
    microseconds; None: the log does not tell). `ends_at` is the offset behind its last event, None: that event is known
    when it comes; `standalone`: it is one statement, with nothing that ends it.
    """

    gtid: Gtid
    second: int
    committed_us: int | None = None
    ends_at: int | None = None
    standalone: bool = False


class Transactions(ABC):
    """Transactions of one history that somebody has."""

    @abstractmethod
    def __contains__(self, gtid: object) -> bool:
        """Whether this one is among them."""

    @abstractmethod
    def add(self, gtid: Any) -> None:
        """One more, that comes next."""

    @abstractmethod
    def includes(self, position: str) -> bool:
        """Whether all of a GTID position are among them. Raises `Permanent` for what is none."""


Known = TypeVar("Known", bound=Transactions)


class LogFormat(ABC, Generic[Known]):
    """One engine's way. Everything raises `Permanent` for text, and events, that cannot be read.

    `outside` are events that belong to the file, not to a transaction, `heading` those that a relay log begins with.
    `counts_anew`: transactions tell by numbers on which they depend, and the numbers begin anew with every file: what
    replays them side by side must not be given some of one file, and then some of another whose beginning is left out.
    """

    outside: frozenset[int]
    heading: frozenset[int] = frozenset({FORMAT_DESCRIPTION})
    counts_anew = False

    @abstractmethod
    def gtid(self, text: str) -> Gtid:
        """Of a transaction's name."""

    @abstractmethod
    def transactions(self, position: str) -> Known:
        """All that a GTID position names."""

    @abstractmethod
    def begun(self, event: Event) -> Begun | None:
        """The transaction that begins with this event, None if none does."""

    @abstractmethod
    def ends(self, event: Event, begun: Begun) -> bool:
        """Whether this event, one inside the transaction, is its last."""

    @abstractmethod
    def hole(self, event: Event, have: Known, ends_at: Known | None, unlogged: str, *, changes_hands: bool) -> str:
        """What is missing between what is known and this event, in words, "" if nothing is.

        The event is of a stretch of the log (`log_places.Stretch`), `changes_hands`: of its beginning, behind another.
        """

    @abstractmethod
    def told(self, found: Iterable[Event], unlogged: str) -> Known:
        """What has happened up to the end of these events, which are the beginning of a file of a stretch."""

    @abstractmethod
    def begins_within(self, found: Iterable[Event], unlogged: str, known: Known) -> bool:
        """Whether everything before the file with these events is known."""
