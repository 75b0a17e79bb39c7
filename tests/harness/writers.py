"""Writers and readers that go on through every fault, the history they record, and the verdict about it.

A commit is acknowledged when the engine says so without a warning that it did not wait for the standby; it failed when
the engine says that; everything else is indeterminate: it may be there or not. The recorder lives in the process of the
test, outside of everything that is harmed. Times are of `time.monotonic`.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import psycopg

from harness.service import eventually

Row = tuple[int, int]
"""Session and sequence: the identity of one insert."""

TABLE = "CREATE TABLE kept (session int NOT NULL, sequence int NOT NULL)"
"""No key: what was inserted twice shall be seen twice."""

INSERT = "INSERT INTO kept VALUES (%s, %s)"
LATEST = """SELECT session, sequence FROM kept
 WHERE ctid >= format('(%s,0)', greatest(pg_relation_size('kept') / 8192 - 6, 0))::tid"""
RECONNECT_PAUSE_S = 0.01
JOIN_TIMEOUT_S = 30.0
WARNING_OF_NO_WAIT = "synchronous replication"
LAST_WORDS = ("57P01", "57P02", "57P03", "25P03")
"""The session was ended by its server: whether the commit had happened then is not told."""


class Outcome(StrEnum):
    """What the client knows of a commit."""

    ACKNOWLEDGED = "acknowledged"
    INDETERMINATE = "indeterminate"
    FAILED = "failed"


def clock_s() -> float:
    """What is to be added to `time.monotonic` now to get the time of the wall clock, which is set now and then."""
    return time.time() - time.monotonic()


class Operation(msgspec.Struct, frozen=True):
    """One insert, as its client saw it. `clock_s` as it was at its end."""

    row: Row
    began: float
    ended: float
    outcome: Outcome
    message: str = ""
    clock_s: float = msgspec.field(default_factory=clock_s)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a history; all empty: nothing."""

    lost: list[Row]
    """Acknowledged, and not there."""

    phantom: list[Row]
    """There, and neither acknowledged nor indeterminate."""

    duplicate: list[Row]
    unread: list[Row]
    """Read by somebody once, and not there."""

    acknowledged: int
    indeterminate: int
    failed: int
    recovered: int
    """Indeterminate ones that are there."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.phantom or self.duplicate or self.unread)

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} acknowledged, {self.indeterminate} indeterminate ({self.recovered} of them there),"
            f" {self.failed} failed; lost {len(self.lost)}, phantom {len(self.phantom)}, duplicate"
            f" {len(self.duplicate)}, unread {len(self.unread)}"
        )


class Gap(msgspec.Struct, frozen=True):
    """One fault as the clients saw it. Seconds; `infinite` if nothing was acknowledged after it."""

    to_first_commit_s: float
    """From the fault to the first acknowledgement of a commit that was begun after it."""

    longest_silence_s: float
    """The longest time without any acknowledgement, from the fault on."""

    indeterminate: int


def judge(operations: Iterable[Operation], read: Iterable[Row], final: Iterable[Row]) -> Verdict:
    """Compares what clients know with what is there in the end."""
    by_outcome: dict[Outcome, set[Row]] = {outcome: set() for outcome in Outcome}
    for one in operations:
        by_outcome[one.outcome].add(one.row)
    present = Counter(final)
    acknowledged, indeterminate = by_outcome[Outcome.ACKNOWLEDGED], by_outcome[Outcome.INDETERMINATE]
    return Verdict(
        lost=sorted(acknowledged - present.keys()),
        phantom=sorted(present.keys() - acknowledged - indeterminate),
        duplicate=sorted(row for row, times in present.items() if times > 1),
        unread=sorted(set(read) - present.keys()),
        acknowledged=len(acknowledged),
        indeterminate=len(indeterminate),
        failed=len(by_outcome[Outcome.FAILED]),
        recovered=len(indeterminate & present.keys()),
    )


def gaps(operations: Iterable[Operation], faults: Sequence[float]) -> list[Gap]:
    """One per fault; silence and indeterminate commits are counted until the next one."""
    by_end = sorted(operations, key=lambda one: one.ended)
    found = []
    for number, fault in enumerate(faults):
        until = faults[number + 1] if number + 1 < len(faults) else math.inf
        after = [one for one in by_end if fault <= one.ended < until]
        acknowledged = [one for one in after if one.outcome is Outcome.ACKNOWLEDGED]
        news = (one for one in by_end if one.began >= fault and one.outcome is Outcome.ACKNOWLEDGED)
        first = next((one.ended - fault for one in news), math.inf)
        ends = [fault, *(one.ended for one in acknowledged)]
        silence = max((later - earlier for earlier, later in pairwise(ends)), default=math.inf)
        indeterminate = sum(one.outcome is Outcome.INDETERMINATE for one in after)
        found.append(Gap(first, silence, indeterminate))
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def describe_gaps(found: Sequence[Gap]) -> str:
    """The line that a fault test prints."""
    first = [gap.to_first_commit_s for gap in found]
    silence = [gap.longest_silence_s for gap in found]
    share = sum(gap.indeterminate > 0 for gap in found) / len(found)
    load = os.getloadavg()[0]
    return (
        f"{len(found)} faults: first new commit after p50 {percentile(first, 50):.3f} s,"
        f" p99 {percentile(first, 99):.3f} s, max {max(first):.3f} s;"
        f" silence p50 {percentile(silence, 50):.3f} s, max {max(silence):.3f} s;"
        f" {share:.0%} with indeterminate commits; load {load:.1f}"
    )


def loss_bound(faults: int) -> str:
    """What no loss in so many independent faults says (rule of three)."""
    return f"no loss in {faults} faults: at most {3 / faults:.1%} of faults lose a commit, at 95 % confidence"


def _keep(warnings: list[str], notice: psycopg.errors.Diagnostic) -> None:
    warnings.append(notice.message_primary or "")


class Writers:
    """Threads that insert, and threads that read, from the start to the end of the block.

    `connect()` opens a session of the clients' user; the table `kept` (see `TABLE`) must be there.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        *,
        writers: int = 8,
        readers: int = 1,
        pause_s: float = 0.0,
    ) -> None:
        self._connect = connect
        self._pause_s = pause_s
        self._ended = threading.Event()
        self._operations: list[list[Operation]] = [[] for _ in range(writers)]
        self._read: list[set[Row]] = [set() for _ in range(readers)]
        self.refusals: list[tuple[float, str]] = []
        """Failed attempts to connect, with their times."""

        first = random.SystemRandom().randrange(1 << 20) * 64  # sessions of several blocks must not meet in one table
        self._threads = [
            threading.Thread(target=self._write, args=(first + number, record), daemon=True)
            for number, record in enumerate(self._operations)
        ] + [threading.Thread(target=self._look, args=(seen,), daemon=True) for seen in self._read]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Every thread has ended when this returns. An operation that hangs is a failure of its own."""
        self._ended.set()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        hanging = sum(thread.is_alive() for thread in self._threads)
        assert not hanging, f"{hanging} clients hang: neither an answer nor an end of the connection"

    @property
    def operations(self) -> list[Operation]:
        """All so far."""
        return [one for record in self._operations for one in list(record)]

    @property
    def read(self) -> set[Row]:
        """All rows that any reader has seen."""
        return {row for seen in self._read for row in seen}

    def acknowledged(self) -> int:
        """How many commits were acknowledged so far."""
        return sum(one.outcome is Outcome.ACKNOWLEDGED for one in self.operations)

    def acknowledged_since(self, since: float) -> int:
        """How many commits that were begun after this time are acknowledged."""
        count = 0
        for record in self._operations:
            for one in reversed(record):
                if one.began < since:
                    break
                count += one.outcome is Outcome.ACKNOWLEDGED
        return count

    def resumed(self) -> None:
        """Waits until a commit that is begun from now on is acknowledged.

        From now on: between the time that is noted of a kill and the kill itself, a busy machine has room for a commit.
        """
        now = time.monotonic()
        eventually(lambda: self.acknowledged_since(now), interval_s=0.01)

    def acknowledged_after(self, moment: float) -> list[Operation]:
        """Commits whose acknowledgement came later than this."""
        return [one for one in self.operations if one.outcome is Outcome.ACKNOWLEDGED and one.ended > moment]

    def _write(self, session: int, record: list[Operation]) -> None:
        sequence = 0
        for connection in self._connections():
            try:
                warnings: list[str] = []
                connection.add_notice_handler(partial(_keep, warnings))
                while not self._ended.is_set():
                    sequence += 1
                    warnings.clear()
                    one = self._insert(connection, (session, sequence), warnings)
                    record.append(one)
                    if connection.broken or one.outcome is Outcome.INDETERMINATE:
                        break
                    if self._pause_s:
                        self._ended.wait(self._pause_s)
            finally:
                connection.close()

    def _insert(self, connection: psycopg.Connection[Any], row: Row, warnings: list[str]) -> Operation:
        began = time.monotonic()
        try:
            connection.execute(INSERT, row)
        except psycopg.Error as error:
            told = error.sqlstate is not None and error.sqlstate not in LAST_WORDS and not connection.broken
            outcome = Outcome.FAILED if told else Outcome.INDETERMINATE
            return Operation(row, began, time.monotonic(), outcome, str(error).strip())
        ended = time.monotonic()
        doubts = [text for text in warnings if WARNING_OF_NO_WAIT in text]
        return Operation(row, began, ended, Outcome.INDETERMINATE if doubts else Outcome.ACKNOWLEDGED, "".join(doubts))

    def _look(self, seen: set[Row]) -> None:
        for connection in self._connections():
            try:
                while not self._ended.wait(0.02):
                    seen.update(connection.execute(LATEST).fetchall())
            except psycopg.Error:
                continue
            finally:
                connection.close()

    def _connections(self) -> Iterable[psycopg.Connection[Any]]:
        while not self._ended.is_set():
            try:
                yield self._connect()
            except psycopg.Error as error:
                self.refusals.append((time.monotonic(), str(error).strip()))
                self._ended.wait(RECONNECT_PAUSE_S)
