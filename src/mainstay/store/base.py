"""The store's small interface. `sqlite.py` implements it; PostgreSQL can, for several machines.

Guarantees: a transaction is atomic, durable when `commit` returns, and isolated (one writer at a time); a kill at any
moment leaves either all or nothing of it. Records are typed by their class; a record's `KIND` is its table.
Refuses to know: what the records mean.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from mainstay.model.errors import MainstayError, Transient
from mainstay.model.records import Record, Scope

R = TypeVar("R", bound=Record)


class Duplicate(MainstayError):
    """`insert` met a record of the same kind, scope and key."""


class Conflict(MainstayError):
    """The record changed or vanished since it was read (compare-and-set failed)."""


class StoreFull(Transient):
    """The store could not be written, usually for lack of disk space. Nothing of the transaction was kept."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of what DescribeEvents shows. `at` is epoch seconds. `event_id` is RDS's number ("RDS-EVENT-0005")."""

    scope: Scope
    at: float
    source_type: str
    source_id: str
    source_arn: str
    categories: tuple[str, ...]
    message: str
    event_id: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One running workflow: a row that survives any process.

    `subject` names what it works on ("db:<DbiResourceId>"); one subject has at most one job of each program.
    `frame` is the step's memory. Times are epoch seconds; `attempts` counts tries of the present step.
    """

    id: int = 0
    program: str
    subject: str
    scope: Scope
    step: str
    frame: dict[str, Any] = {}
    due_at: float = 0.0
    created_at: float = 0.0
    deadline_at: float = 0.0
    attempts: int = 0
    overdue: bool = False


class Reader(Protocol):
    """What can be read inside one consistent view."""

    def get(self, kind: type[R], scope: Scope, key: str) -> R | None:
        """The record, or None."""

    def find(self, kind: type[R], scope: Scope | None, name: str, value: str) -> list[R]:
        """Records whose `index()` has `name` = `value`, ordered by key."""

    def scan(self, kind: type[R], scope: Scope | None = None, *, after: str = "", limit: int = 1_000_000) -> list[R]:
        """Records of one scope (or of all, scope None, ordered by scope) ordered by key, those after key `after`."""

    def count(self, kind: type[R], scope: Scope) -> int:
        """How many records of the kind the scope holds."""

    def events(self, scope: Scope, since: float, until: float) -> list[Event]:
        """Events with since <= at < until, oldest first."""

    def jobs(self, subject: str | None = None) -> list[Job]:
        """Unfinished jobs, of one subject or all, oldest first."""


class Transaction(Reader, Protocol):
    """What can also be written."""

    @property
    def changes(self) -> int:
        """A number that grows with every change made in the transaction."""

    def insert(self, record: Record) -> None:
        """Adds a new record; raises `Duplicate` if one with its kind, scope and key exists."""

    def put(self, record: Record) -> None:
        """Replaces a record that exists; raises `Conflict` if it does not."""

    def delete(self, record: Record) -> None:
        """Removes the record; removing what is not there is no error (workflow steps repeat)."""

    def append_event(self, event: Event) -> None:
        """Adds an event."""

    def add_job(self, job: Job) -> Job:
        """Adds a workflow row and returns it with its id; raises `Duplicate` if subject and program already run."""

    def put_job(self, job: Job) -> None:
        """Records a job's progress."""

    def finish_job(self, job: Job) -> None:
        """Removes a job that has ended."""


class Store(Protocol):
    """Opens transactions. They are synchronous and short: nothing awaits inside one."""

    def read(self) -> AbstractContextManager[Reader]:
        """A consistent view, no writes."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """All or nothing; commits when the block ends, rolls back on any exception."""

    def view(self) -> Reader:
        """Reads outside any transaction, each consistent in itself: for callers that wait between them."""

    def next_due_at(self) -> float | None:
        """When the earliest job is due, epoch seconds, or None without jobs."""

    def due_jobs(self, now: float, limit: int) -> list[Job]:
        """Jobs due at `now`, most overdue first."""

    def prune_events(self, before: float) -> int:
        """Forgets events older than `before`; returns how many."""

    def close(self) -> None:
        """Releases the file. The store must not be used afterwards."""
