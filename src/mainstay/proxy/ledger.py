"""How workers share the connections that one proxy may have. Pure: what was told in, grants and limits out.

A lease is one connection. It counts from its grant until the engine has ended it, whoever holds it, so that grants are
safe whatever becomes of a worker, and however long messages take. Guarantees, tested by simulation:

* a grant is made only while fewer leases are open than the budget allows;
* a worker that lacks connections gets those that others do not use; if all are used, shares follow demand, within one;
* a worker with none waits for its first one in the order of asking: with fewer connections than workers they go round.

Limits are levels, not orders: "give back what you hold beyond it, idle ones first". They may be late, lost or
repeated without harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

QUANTUM_S = 0.05
"""So long a worker keeps its only connection while another one has none."""

SMOOTHED_OVER_S = 1.0
"""Shares follow the demand of about so long: what waits at one moment says little, and moving a connection costs."""

UNUSED_S = 0.1
"""A connection that was in use so shortly ago is not idle: its worker is about to need it again."""

NOBODY = 0
"""Holder of a lease that its worker has given up, or died with; the engine may not have ended it yet."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker lacks and does not use: connections it could use at once beyond those it has, those that were idle
    for `UNUSED_S`, and how many grants (and refusals) it had got when it said so.
    """

    wanted: int = 0
    idle: int = 0
    received: int = 0


class _Account:
    def __init__(self) -> None:
        self.need = Need()
        self.granted = 0
        self.held = 0
        self.since = 0.0
        """When it got the first of those it holds."""

        self.starved_since: float | None = None
        self.usual = 0.0
        """Its demand of late."""

        self._usual_at = 0.0

    def look(self, now: float) -> None:
        """Time has passed with the demand that it has."""
        part = 1.0 - math.exp(min(0.0, self._usual_at - now) / SMOOTHED_OVER_S)
        self.usual += (self.demand - self.usual) * part
        self._usual_at = now

    @property
    def unmet(self) -> int:
        """What it wants and is not on its way to it."""
        return max(0, self.need.wanted - (self.granted - self.need.received))

    @property
    def idle(self) -> int:
        return min(self.held, self.need.idle)

    @property
    def demand(self) -> int:
        return self.held - self.idle + self.unmet


class Ledger:
    """The leases of one proxy. `budget` is how many there may be; leases are named by `numbers`."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.budget = 1
        self._numbers = numbers
        self.ending = 0
        """Leases that nobody uses any more and the engine has not ended yet."""

        self._holders: dict[int, int] = {}
        self._accounts: dict[int, _Account] = {}

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def lacking(self) -> bool:
        """Whether some worker wants what it does not get yet."""
        return any(account.unmet for account in self._accounts.values())

    def held(self, worker: int) -> int:
        """How many it has, as far as is known here."""
        account = self._accounts.get(worker)
        return 0 if account is None else account.held

    # What happens

    def joined(self, worker: int) -> None:
        """A worker is there; what it has told before counts no more."""
        account = self._accounts[worker] = _Account()
        account.held = sum(1 for holder in self._holders.values() if holder == worker)

    def told(self, worker: int, need: Need, now: float) -> None:
        """What it needs from now on."""
        account = self._accounts[worker]
        account.look(now)
        account.need = need
        if not account.unmet or account.held:
            account.starved_since = None
        elif account.starved_since is None:
            account.starved_since = now

    def adopt(self, lease: int, worker: int, now: float) -> None:
        """A lease that was granted before this ledger was begun. `worker` may be `NOBODY`."""
        self._holders[lease] = worker
        self.ending += worker == NOBODY
        self._took(worker, now)

    def take(self, now: float) -> tuple[int, int] | None:
        """The next grant, lease and worker; None if nothing is free, or wanted."""
        if len(self._holders) >= self.budget:
            return None
        worker = self._neediest()
        if worker is None:
            return None
        lease = next(self._numbers)
        self._holders[lease] = worker
        self._accounts[worker].granted += 1
        self._took(worker, now)
        return lease, worker

    def given_up(self, lease: int, now: float) -> None:
        """Its holder has let it go; it counts until it is `gone`."""
        holder = self._holders.get(lease, NOBODY)
        if holder != NOBODY:
            self._holders[lease] = NOBODY
            self.ending += 1
            self._left(holder, now)

    def gone(self, lease: int, now: float) -> None:
        """The engine has ended it, or it never came to be."""
        if lease in self._holders:
            holder = self._holders.pop(lease)
            self.ending -= holder == NOBODY
            self._left(holder, now)

    def died(self, worker: int) -> None:
        """The worker is no more. What it held counts until the engine has ended it."""
        self._accounts.pop(worker, None)
        for lease, holder in self._holders.items():
            if holder == worker:
                self._holders[lease] = NOBODY
                self.ending += 1

    def forget_leases(self) -> None:
        """The database is elsewhere: what was open to the old one does not count for the new one."""
        self._holders.clear()
        self.ending = 0
        for account in self._accounts.values():
            account.held = 0

    def _took(self, worker: int, now: float) -> None:
        account = self._accounts.get(worker)
        if account is None:
            return
        account.held += 1
        account.starved_since = None
        if account.held == 1:
            account.since = now

    def _left(self, worker: int, now: float) -> None:
        account = self._accounts.get(worker)
        if account is None:
            return
        account.held -= 1
        if not account.held and account.unmet:
            account.starved_since = now

    # What follows

    def _neediest(self) -> int | None:
        """Who has none goes first, in the order of asking; then who has least for its demand (d'Hondt)."""
        lacking = [(worker, account) for worker, account in self._accounts.items() if account.unmet]
        if not lacking:
            return None
        starved = [(account.starved_since or 0.0, worker) for worker, account in lacking if not account.held]
        if starved:
            return min(starved)[1]
        return max(lacking, key=lambda one: one[1].demand / (one[1].held + 1))[0]

    def limits(self, now: float) -> dict[int, int]:
        """How many each worker may have. `budget` means no limit of its own: it has what it is granted."""
        accounts = self._accounts
        if not accounts:
            return {}
        lacking = sum(account.unmet for account in accounts.values())
        over = len(self._holders) - self.budget
        short = max(0, over) + lacking - self.ending
        if short <= 0 or over < 0:
            return dict.fromkeys(accounts, self.budget)
        gives = dict.fromkeys(accounts, 0)
        short -= self._give_idle(gives, short)
        must = max(0, over) - self.ending - sum(gives.values())
        self._give_most(gives, must)
        if lacking:
            self._give_shares(gives, short - max(0, must), now)
            self._give_first_ones(gives, now)
        return {
            worker: account.held - gives[worker] if gives[worker] else self.budget
            for worker, account in accounts.items()
        }

    def _give_idle(self, gives: dict[int, int], count: int) -> int:
        """Those that most of it lies idle with give first; returns how many are given."""
        given = 0
        while given < count:
            worker = max(gives, key=lambda one: self._accounts[one].idle - gives[one])
            if self._accounts[worker].idle <= gives[worker]:
                break
            gives[worker] += 1
            given += 1
        return given

    def _give_most(self, gives: dict[int, int], count: int) -> None:
        """The budget has shrunk: those that have most give."""
        for _ in range(count):
            worker = max(gives, key=lambda one: self._accounts[one].held - gives[one])
            if self._accounts[worker].held <= gives[worker]:
                return
            gives[worker] += 1

    def _give_shares(self, gives: dict[int, int], count: int, now: float) -> None:
        """Those above their share give to those below it. Neither is anyone within one of it, so nothing swings."""
        for account in self._accounts.values():
            account.look(now)
        total = sum(account.usual for account in self._accounts.values()) or 1.0
        quotas = {worker: self.budget * account.usual / total for worker, account in self._accounts.items()}
        below = sum(
            min(account.unmet, max(0, math.floor(quotas[worker]) - account.held))
            for worker, account in self._accounts.items()
        )
        count = min(count, below - self.ending)
        above = {
            worker: account.held - gives[worker] - max(1, math.ceil(quotas[worker]))
            for worker, account in self._accounts.items()
        }
        for _ in range(count):
            worker = max(above, key=lambda one: above[one])
            if above[worker] <= 0:
                return
            above[worker] -= 1
            gives[worker] += 1

    def _give_first_ones(self, gives: dict[int, int], now: float) -> None:
        """For each worker with none, one is given by who has several, or has had its only one for a while.

        More are asked the longer it lasts: the first may be in a long transaction.
        """
        starved = [a.starved_since for a in self._accounts.values() if a.unmet and not a.held]
        count = len(starved) - self.ending - sum(gives.values())
        if count <= 0:
            return
        waited_s = now - min(now if since is None else since for since in starved)
        count += int(waited_s / QUANTUM_S)
        left = {worker: account.held - gives[worker] for worker, account in self._accounts.items()}
        for worker in sorted(left, key=lambda one: (-left[one], self._accounts[one].since)):
            if count <= 0 or not left[worker]:
                return
            if left[worker] > 1 or now - self._accounts[worker].since >= QUANTUM_S:
                gives[worker] += 1
                count -= 1

    def idle_shares(self, allowed: int) -> dict[int, int]:
        """How many idle ones each worker may keep, of so many for all: who has few keeps them."""
        return poured({worker: account.idle for worker, account in self._accounts.items()}, allowed)


def poured(wanted: dict[int, int], amount: int) -> dict[int, int]:
    """`amount` to all alike, nobody more than wanted; what is left over when all have it goes to all alike."""
    shares: dict[int, int] = {}
    left = sorted(wanted, key=lambda one: wanted[one])
    while left:
        one = left.pop(0)
        shares[one] = min(wanted[one], amount // (len(left) + 1))
        amount -= shares[one]
    for index, one in enumerate(shares):
        shares[one] += _part(amount, len(shares), index)
    return shares


def _part(amount: int, count: int, index: int) -> int:
    return amount // count + (1 if index < amount % count else 0)
