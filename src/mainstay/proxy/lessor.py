"""The coordinator's side of the shared budget: it alone connects to databases, and counts what is open.

Every connection of a worker is made here and handed over as a socket, of which one descriptor stays here. So a lease
ends when this descriptor has read the end of the stream, which the engine's process sends by ending, and nothing else:
not when a worker says that it has closed it, and not when the worker dies. Until then it counts.

What a dead worker was doing is cancelled, and what its connections still send is read and thrown away.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog

from mainstay.protocol.postgres import wire
from mainstay.proxy.budget import budget
from mainstay.proxy.channel import (
    Ask,
    Custody,
    Ended,
    Gone,
    Holds,
    Knows,
    Lease,
    Message,
    Needs,
    NoLease,
    Opened,
    Terms,
)
from mainstay.proxy.ledger import NOBODY, Ledger
from mainstay.proxy.lessee import NO_LIMIT

ASK_EVERY_S = 0.05
CANCEL_EVERY_S = 5.0
CANCEL_TIMEOUT_S = 2.0
DRAIN_BYTES = 1 << 16
DRAINS_AT_ONCE = 16
log = structlog.get_logger()

Tell = Callable[[int, Message, "socket.socket | None"], None]
"""Tells a worker something, by its number; nothing if it is away."""


class Open:
    """One connection to a database: `holder` is the worker that uses it, or `NOBODY`."""

    def __init__(self, number: int, place: str, descriptor: socket.socket, holder: int) -> None:
        self.number = number
        self.place = place
        self.socket = descriptor
        self.holder = holder
        self.worker = holder
        """Who has it, or had it last."""

        self.process_id = 0
        self.secret = b""
        self.cancelled_at = 0.0


class Lessor:
    """The connections of one proxy, of all workers."""

    def __init__(self, proxy_id: str, tell: Tell, numbers: Iterator[int]) -> None:
        self.proxy_id = proxy_id
        self.connect: Callable[[str], socket.socket] = connected
        self.max_connections = 0
        self.known = False
        """Whether all workers of before have told what they hold. Until then nothing is granted, nor taken back."""

        self._tell = tell
        self._percent = 100
        self._idle_percent = 50
        self._place: str | None = None
        self._epoch = 0
        self._placed = False
        self._learned: tuple[str | None, int, int] = (None, 0, 0)
        """Place, epoch and max_connections, as last told."""

        self._ledger = Ledger(numbers)
        self._open: dict[int, Open] = {}
        self._workers: set[int] = set()
        self._unclaimed: dict[int, set[int]] = {}
        """What a worker that has come back should hold and has not told yet."""

        self._told: dict[int, Terms] = {}
        self._asked_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def epoch(self) -> int:
        """Of the database, as last told."""
        return self._epoch

    @property
    def budget(self) -> int:
        """How many connections there may be."""
        return budget(self.max_connections, self._percent)

    @property
    def open(self) -> int:
        """How many connections to the place of the database are not ended."""
        return len(self._ledger)

    @property
    def closed(self) -> bool:
        """Whether nothing is left."""
        return not self._open

    # What holds

    def configure(self, percent: int, idle_percent: int) -> None:
        """ConnectionPoolConfiguration."""
        self._percent, self._idle_percent = percent, idle_percent
        self.plan()

    def moved(self, place: str | None, epoch: int) -> None:
        """Where the database is now. What is still open to this very place counts, whoever opened it."""
        if self._placed and (place, epoch) == (self._place, self._epoch):
            return
        # It may have been started with another limit; but if only we are new, workers have told it.
        known = not self._placed and (place, epoch) == self._learned[:2]
        self._placed = True
        self._place, self._epoch, self.max_connections = place, epoch, self._learned[2] if known else 0
        if place is not None:
            self._recount()
        self.plan()

    def _recount(self) -> None:
        self._ledger.forget_leases()
        for one in self._open.values():
            if one.place == self._place:
                self._ledger.adopt(one.number, one.holder, self._now())

    # What workers do

    def joined(self, worker: int) -> None:
        """A worker is there, or there again; what it holds it tells next."""
        self._workers.add(worker)
        self._told.pop(worker, None)
        self._ledger.joined(worker)
        self._unclaimed[worker] = {one.number for one in self._open.values() if one.holder == worker}

    def adopt(self, worker: int, message: Holds, descriptor: socket.socket) -> None:
        """A connection that the worker has from a coordinator of before."""
        known = self._open.get(message.lease)
        self._unclaimed.get(worker, set()).discard(message.lease)
        if known is not None:  # the channel broke, and neither end
            descriptor.close()
        else:
            known = self._open[message.lease] = Open(message.lease, message.place, descriptor, worker)
            if message.place == self._place:
                self._ledger.adopt(message.lease, worker, self._now())
        known.process_id, known.secret = message.process_id, bytes.fromhex(message.secret)
        if message.ended:
            self._given_up(known)

    def settled(self, worker: int) -> None:
        """It has told everything. What was granted and has not reached it is given up."""
        for number in self._unclaimed.pop(worker, set()):
            self._given_up(self._open[number])
        self.plan()

    def known_limit(self, message: Knows) -> None:
        """A worker tells max_connections."""
        self._learned = (message.place, message.epoch, message.max_connections)
        if self._learned[:2] == (self._place, self._epoch):
            self.max_connections = message.max_connections
            self.plan()

    def needs(self, worker: int, message: Needs) -> None:
        """A worker tells what it needs."""
        if worker in self._workers:
            self._ledger.told(worker, message.need, self._now())
            self.plan()

    def opened(self, worker: int, message: Opened) -> None:
        """A worker has logged in on a connection."""
        one = self._open.get(message.lease)
        if one is not None and one.holder == worker:
            one.process_id, one.secret = message.process_id, bytes.fromhex(message.secret)

    def ended(self, worker: int, message: Ended) -> None:
        """A worker has closed a connection."""
        one = self._open.get(message.lease)
        if one is not None and one.holder == worker:
            self._given_up(one)
            self.plan()

    def died(self, worker: int) -> None:
        """The worker's process has ended."""
        self._workers.discard(worker)
        self._unclaimed.pop(worker, None)
        self._told.pop(worker, None)
        self._ledger.died(worker)
        for one in [one for one in self._open.values() if one.worker == worker]:
            if one.holder == worker:
                self._given_up(one, cancel=True)
            else:
                self._give_into_custody(one)
        self.plan()

    def close(self) -> None:
        """The proxy is deleted."""
        self.moved(None, self._epoch)
        self._workers.clear()

    def _given_up(self, one: Open, *, cancel: bool = False) -> None:
        """Nobody uses it: what comes is thrown away, up to its end."""
        if one.holder == NOBODY:
            return
        one.holder = NOBODY
        one.cancelled_at = self._now()
        self._ledger.given_up(one.number, self._now())
        with suppress(OSError):
            one.socket.shutdown(socket.SHUT_WR)
        self._loop.add_reader(one.socket.fileno(), self._drain, one)
        if cancel:
            self._cancel(one)
            self._give_into_custody(one)

    def _give_into_custody(self, one: Open) -> None:
        """Should we die too, somebody must know that this is still open."""
        keeper = min(self._workers - {one.worker}, default=NOBODY)
        if keeper != NOBODY:
            one.worker = keeper
            custody = Custody(one.number, self.proxy_id, one.place, one.process_id, one.secret.hex())
            self._tell(keeper, custody, one.socket)

    def _drain(self, one: Open) -> None:
        for _ in range(DRAINS_AT_ONCE):
            try:
                data = one.socket.recv(DRAIN_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                break
        else:
            return
        self._loop.remove_reader(one.socket.fileno())
        one.socket.close()
        del self._open[one.number]
        self._ledger.gone(one.number, self._now())
        self._tell(one.worker, Gone(one.number), None)
        self.plan()

    # Grants

    def look(self) -> None:
        """What must be looked at now and then; called often."""
        now = self._now()
        for one in self._open.values():
            if (
                one.holder == NOBODY and now - one.cancelled_at > CANCEL_EVERY_S
            ):  # what is it doing so long, for nobody?
                self._cancel(one)
        self.plan()

    def plan(self) -> None:
        """Grants what may be granted, and tells every worker its limits."""
        if not self._placed or not self.known:
            return
        now, place = self._now(), self._place
        ledger = self._ledger
        ledger.budget = self.budget
        grants = []
        while place is not None and (grant := ledger.take(now)) is not None:
            grants.append(grant)
        self._tell_terms(now)
        for number, worker in grants:
            self._grant(number, worker, place or "")
        if ledger.lacking and place is not None and now - self._asked_at >= ASK_EVERY_S:
            self._asked_at = now
            for worker in self._workers:
                self._tell(worker, Ask(self.proxy_id), None)

    def _tell_terms(self, now: float) -> None:
        limits = self._ledger.limits(now)
        limit_is_known = bool(self.max_connections)
        idle = self._ledger.idle_shares(self.max_connections * self._idle_percent // 100) if limit_is_known else {}
        for worker in self._workers:
            terms = Terms(
                self.proxy_id,
                self._place,
                self._epoch,
                self.max_connections,
                limits.get(worker, self.budget),
                idle.get(worker, NO_LIMIT),
            )
            if terms != self._told.get(worker):
                self._told[worker] = terms
                self._tell(worker, terms, None)

    def _grant(self, number: int, worker: int, place: str) -> None:
        try:
            descriptor = self.connect(place)
        except OSError as error:
            self._ledger.gone(number, self._now())
            self._tell(worker, NoLease(self.proxy_id, f"the database cannot be reached: {error}"), None)
            return
        self._open[number] = Open(number, place, descriptor, worker)
        self._tell(worker, Lease(number, self.proxy_id, place), descriptor)

    def _cancel(self, one: Open) -> None:
        one.cancelled_at = self._now()
        if one.process_id:
            task = self._loop.create_task(cancel(one.place, one.process_id, one.secret))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _now() -> float:
        return time.monotonic()


def connected(place: str) -> socket.socket:
    """A connection to an engine's Unix socket. Raises `OSError`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(place)  # at once, or the queue of the engine is full and it fails
    except BaseException:
        connection.close()
        raise
    return connection


async def cancel(place: str, process_id: int, secret: bytes) -> None:
    """Asks the engine to cancel what a connection is doing (55.2.8); it knows by itself a key that is no more."""
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(place)
            with suppress(OSError):
                writer.write(wire.cancel_request(process_id, secret))
                await reader.read()
            writer.close()
    except (OSError, TimeoutError) as error:
        log.warning("proxy.cancel_failed", connection=process_id, error=str(error))
