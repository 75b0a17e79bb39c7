"""The shared budget, simulated: workers with random demand that die at random, messages and endings that take their
time. Never more open than allowed, nobody waits for ever, nothing is lost.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from functools import partial

import pytest

from mainstay.proxy.ledger import NOBODY, QUANTUM_S, UNUSED_S, Ledger, Need, poured

LATENCY_S = 0.02
ENDING_S = 0.05
HELD_S = 0.2


class SimulatedWorker:
    """What `lessee.Share` and `target.Target` do, without their bytes."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.waiting: deque[float] = deque()
        self.idle: list[int] = []
        self.idle_since: dict[int, float] = {}
        self.busy: set[int] = set()
        self.received = 0
        self.limit = 1 << 30
        self.told: Need | None = None
        self.alive = True

    @property
    def surplus(self) -> int:
        return len(self.idle) + len(self.busy) - self.limit

    def ask(self) -> None:
        """A client wants a connection."""
        self.waiting.append(self.world.now)
        self.serve()

    def serve(self) -> None:
        while self.waiting and self.idle:
            waited = self.world.now - self.waiting.popleft()
            self.world.longest = max(self.world.longest, waited)
            self.world.served += 1
            lease = self.idle.pop()
            self.busy.add(lease)
            self.world.later(random_held(self.world), partial(self.release, lease))
        self.tell()

    def release(self, lease: int) -> None:
        if not self.alive or lease not in self.busy:
            return
        self.busy.discard(lease)
        self.idle.append(lease)
        self.idle_since[lease] = self.world.now
        if self.surplus > 0:
            self.end(self.idle.pop())
        self.serve()

    def granted(self, lease: int) -> None:
        self.received += 1
        self.idle.append(lease)
        self.idle_since[lease] = self.world.now
        self.serve()

    def limited(self, limit: int) -> None:
        self.limit = limit
        while self.surplus > 0 and self.idle:
            self.end(self.idle.pop(0))
        self.tell()

    def end(self, lease: int) -> None:
        world = self.world
        self.world.to_coordinator(self, lambda: world.given_up(lease))

    def tell(self) -> None:
        unused = sum(1 for lease in self.idle if self.idle_since[lease] <= self.world.now - UNUSED_S)
        need = Need(wanted=len(self.waiting), idle=unused, received=self.received)
        if need != self.told:
            self.told = need
            self.world.to_coordinator(self, lambda: self.world.need_told(self, need))


def random_held(world: World) -> float:
    """Most transactions are short, some are not."""
    return world.random.choice((0.001, 0.01, HELD_S)) * world.random.random()


class World:
    """Time, messages, and the engine that ends connections when it gets round to it."""

    def __init__(self, seed: int, budget: int, workers: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.ledger = Ledger(itertools.count(1))
        self.ledger.budget = self.allowed = budget
        self.open: set[int] = set()
        self.longest = 0.0
        self.served = 0
        self.most = 0
        self.shrinking = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._last: dict[tuple[int, bool], float] = {}
        self._limits: dict[int, int] = {}
        self.workers: dict[int, SimulatedWorker] = {}
        for number in range(1, workers + 1):
            self.start(number)

    def start(self, number: int) -> None:
        self.workers[number] = SimulatedWorker(self, number)
        self._limits.pop(number, None)
        self.ledger.joined(number)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), what))

    def _in_order(self, number: int, to_worker: bool, what: Callable[[], None]) -> None:
        at = max(self._last.get((number, to_worker), 0.0), self.now + self.random.random() * LATENCY_S)
        self._last[number, to_worker] = at
        heapq.heappush(self._events, (at, next(self._numbers), what))

    def to_coordinator(self, worker: SimulatedWorker, what: Callable[[], None]) -> None:
        self._in_order(worker.number, False, lambda: what() if worker.alive else None)

    def to_worker(self, worker: SimulatedWorker, what: Callable[[], None]) -> None:
        self._in_order(worker.number, True, lambda: what() if worker.alive else None)

    # The coordinator

    def need_told(self, worker: SimulatedWorker, need: Need) -> None:
        self.ledger.told(worker.number, need, self.now)
        self.plan()

    def given_up(self, lease: int) -> None:
        self.ledger.given_up(lease, self.now)
        self._end_later(lease)
        self.plan()

    def _end_later(self, lease: int) -> None:
        self.later(self.random.random() * ENDING_S, lambda: self._gone(lease))

    def _gone(self, lease: int) -> None:
        if lease in self.open:
            self.open.discard(lease)
            self.ledger.gone(lease, self.now)
            self.plan()

    def plan(self) -> None:
        while (grant := self.ledger.take(self.now)) is not None:
            lease, number = grant
            self.open.add(lease)
            assert len(self.open) <= self.ledger.budget, "a grant beyond the budget"
            worker = self.workers[number]
            self.to_worker(worker, partial(worker.granted, lease))
        for number, limit in self.ledger.limits(self.now).items():
            if self._limits.get(number) != limit:
                self._limits[number] = limit
                worker = self.workers[number]
                self.to_worker(worker, partial(worker.limited, limit))
        self.most = max(self.most, len(self.open))
        assert len(self.ledger) == len(self.open)

    # What happens to it

    def kill_if_there(self, number: int) -> None:
        if number in self.workers:
            self.kill(number)

    def kill(self, number: int) -> None:
        """The worker dies; another one takes its number a little later. Its clients are gone."""
        worker = self.workers[number]
        worker.alive = False
        held = [lease for lease, holder in self.ledger._holders.items() if holder == number]
        self.ledger.died(number)
        for lease in held:
            self._end_later(lease)
        del self.workers[number]
        self._last.pop((number, True), None)
        self._last.pop((number, False), None)
        self.plan()
        self.later(0.1, lambda: self.start(number))

    def run(self, until: float) -> None:
        """Lets time pass; the coordinator looks around now and then, as it does."""
        looks = itertools.count(self.now, QUANTUM_S / 2)
        next_look = next(looks)
        while (self._events and self._events[0][0] <= until) or next_look <= until:
            if not self._events or next_look < self._events[0][0]:
                self.now = next_look
                next_look = next(looks)
                for worker in self.workers.values():
                    worker.tell()
                self.plan()
                continue
            self.now, _number, what = heapq.heappop(self._events)
            what()
            if not self.shrinking:
                assert len(self.open) <= self.allowed
        self.now = until

    def clients(self, worker_of: Callable[[], int], count: int, pause_s: float, until: float) -> None:
        """So many requests at random moments."""
        for _ in range(count):
            self.later(self.random.random() * until, lambda: self._request(worker_of()))

    def _request(self, number: int) -> None:
        if number in self.workers:
            self.workers[number].ask()


@pytest.mark.parametrize("seed", range(40))
def test_random_demand_deaths_and_delays(seed: int) -> None:
    chance = random.Random(seed)
    workers, budget = chance.randint(2, 6), chance.choice((1, 2, 3, 10, 40))
    world = World(seed, budget, workers)
    # From too little to do to too much, and mostly at one worker, or at all.
    load = chance.choice((0.3, 0.9, 1.3)) * budget / (HELD_S / 6 + ENDING_S)
    favourite = chance.random() < 0.5
    seconds = 10.0
    world.clients(
        lambda: 1 if favourite and world.random.random() < 0.9 else world.random.randint(1, workers),
        int(min(load * seconds, 6_000)),
        0.0,
        seconds,
    )
    for _ in range(chance.randint(0, 5)):
        number = chance.randint(1, workers)
        world.later(chance.random() * seconds, partial(world.kill_if_there, number))
    world.run(seconds)
    world.run(world.now + 600)
    assert world.served
    for worker in world.workers.values():
        assert not worker.waiting, "who waits is served"
        assert not worker.busy
    held = sum(len(worker.idle) for worker in world.workers.values())
    assert held == len(world.open) == len(world.ledger), "nothing is lost, nothing is kept by nobody"
    assert world.ledger.ending == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("budget", [1, 2])
def test_fewer_connections_than_workers_go_round(seed: int, budget: int) -> None:
    """Every worker always has clients that wait; each gets its turn, again and again."""
    workers = 4
    world = World(seed, budget, workers)
    turns = dict.fromkeys(range(1, workers + 1), 0)

    def again(number: int) -> None:
        worker = world.workers[number]
        if len(worker.waiting) < 5:
            worker.ask()
        turns[number] += bool(worker.busy)
        if world.now < 30:
            world.later(0.01, lambda: again(number))

    for number in turns:
        again(number)
    world.run(30)
    assert world.most == budget
    assert min(turns.values()) > 0.3 * sum(turns.values()) / workers, turns
    assert world.longest < 10


def test_an_idle_connection_moves_to_who_needs_it() -> None:
    world = World(1, 4, 2)
    for _ in range(4):
        world.workers[1].ask()
    world.run(2)
    assert len(world.workers[1].idle) == 4
    world.workers[2].ask()
    world.run(4)
    assert world.longest < 1
    assert len(world.workers[2].idle) == 1 and len(world.workers[1].idle) == 3, "as many as are needed"


@pytest.mark.parametrize(("clients", "shares"), [((100, 100), (5, 5)), ((90, 10), (9, 1)), ((200, 2), (9, 1))])
def test_shares_follow_demand(clients: tuple[int, int], shares: tuple[int, int]) -> None:
    """With more clients than connections on both: as many connections as clients, in proportion."""
    world = World(3, 10, 2)

    def again(number: int, count: int) -> None:
        worker = world.workers[number]
        while len(worker.waiting) + len(worker.busy) < count:
            worker.ask()
        if world.now < 20:
            world.later(0.005, lambda: again(number, count))

    again(1, clients[0])  # the first one takes everything at first
    world.run(1)
    again(2, clients[1])
    world.run(15)
    for number, share in zip((1, 2), shares, strict=True):
        worker = world.workers[number]
        assert abs(len(worker.busy) + len(worker.idle) - share) <= 1


def test_a_smaller_budget_is_reached_and_kept() -> None:
    world = World(5, 20, 3)
    world.clients(lambda: world.random.randint(1, 3), 3000, 0.0, 10.0)
    world.run(5)
    assert len(world.open) > 5
    world.shrinking = True
    world.ledger.budget = 5
    world.run(7)
    assert len(world.open) <= 5
    world.allowed, world.shrinking = 5, False
    world.run(200)
    assert not any(worker.waiting for worker in world.workers.values())


def test_leases_of_the_dead_count_until_they_are_gone() -> None:
    ledger = Ledger(itertools.count(1))
    ledger.budget = 2
    for worker in (1, 2):
        ledger.joined(worker)
    ledger.told(1, Need(wanted=2), 0.0)
    first, second = ledger.take(0.0), ledger.take(0.0)
    assert first == (1, 1) and second == (2, 1)
    ledger.told(2, Need(wanted=1), 0.0)
    ledger.died(1)
    assert ledger.take(1.0) is None and ledger.ending == 2 and len(ledger) == 2
    ledger.gone(1, 2.0)
    assert ledger.take(2.0) == (3, 2)
    assert ledger.take(2.0) is None


def test_what_is_adopted_counts() -> None:
    ledger = Ledger(itertools.count(100))
    ledger.budget = 3
    ledger.joined(1)
    ledger.adopt(7, 1, 0.0)
    ledger.adopt(8, NOBODY, 0.0)
    ledger.told(1, Need(wanted=5), 0.0)
    assert ledger.held(1) == 1
    assert ledger.take(0.0) == (100, 1)
    assert ledger.take(0.0) is None


def test_a_long_transaction_does_not_block_who_has_none() -> None:
    """Worker 1 keeps its only connection for long; then another one is asked as well."""
    ledger = Ledger(itertools.count(1))
    ledger.budget = 2
    for worker in (1, 2, 3):
        ledger.joined(worker)
        ledger.told(worker, Need(wanted=3), 0.0)
    assert [ledger.take(0.0), ledger.take(0.0), ledger.take(0.0)] == [(1, 1), (2, 2), None]
    for worker in (1, 2):
        ledger.told(worker, Need(wanted=3, received=1), 0.0)
    assert sorted(ledger.limits(QUANTUM_S * 1.01).values()) == [0, 0, 2]
    assert ledger.limits(0.0) == {1: 2, 2: 2, 3: 2}, "not before it has had it for a moment"


def test_poured() -> None:
    assert poured({1: 10, 2: 70}, 50) == {1: 10, 2: 40}
    assert poured({1: 40, 2: 40}, 50) == {1: 25, 2: 25}
    assert sum(poured({1: 0, 2: 0, 3: 1}, 10).values()) == 10
    assert poured({}, 5) == {}
