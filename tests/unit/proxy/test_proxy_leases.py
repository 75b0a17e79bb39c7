"""Workers share the connections of a proxy: real targets and channels, an engine that counts what is open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from harness.proxy_workers import ASK, FOR_EVER, Client, Host, Office, WorkerInMemory
from mainstay.proxy.loop import run


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test in a `ProxyLoop`."""

    async def in_time() -> None:
        async with asyncio.timeout(120):
            await test()

    def wrapper() -> None:
        run(in_time())

    wrapper.__name__ = test.__name__
    return wrapper


async def all_are_usable(host: Host) -> None:
    """One worker's clients get every connection that there may be; nothing is held for nobody."""
    clients = [Client(next(iter(host.workers.values()))) for _ in range(host.budget)]
    asking = [asyncio.create_task(client.ask(FOR_EVER)) for client in clients]
    await host.until(lambda: host.engine.busy == host.budget)
    host.engine.wake()
    await asyncio.gather(*asking)
    assert host.engine.most <= host.budget


@in_loop
async def test_many_clients_of_three_workers_share_ten_connections() -> None:
    async with Host(budget=10, workers=3) as host:
        clients = [Client(host.workers[1 + number % 3]) for number in range(90)]
        running = [asyncio.create_task(client.run(12, 0.02)) for client in clients]
        await host.until(lambda: sorted(len(one.target.connections) for one in host.workers.values()) == [3, 3, 4])
        await asyncio.gather(*running)
        assert all(client.answers == 12 and not client.errors for client in clients)
        assert host.engine.most == 10


@in_loop
async def test_what_one_keeps_idle_another_gets() -> None:
    async with Host(budget=4, workers=2) as host:
        first = [Client(host.workers[1]) for _ in range(4)]
        await asyncio.gather(*(client.run(5, 0.0) for client in first))
        assert len(host.workers[1].target.connections) == 4
        second = Client(host.workers[2])
        await second.run(3, 0.0)
        assert second.longest_s < 10
        await asyncio.gather(*(client.run(5, 0.0) for client in first))
        assert host.engine.most <= 4


@in_loop
async def test_fewer_connections_than_workers() -> None:
    async with Host(budget=1, workers=3) as host:
        clients = [Client(worker) for worker in host.workers.values() for _ in range(3)]
        await asyncio.gather(*(client.run(6, 0.0) for client in clients))
        assert not any(client.errors for client in clients)
        assert host.engine.most == 1


@in_loop
async def test_users_that_do_not_share_connections_take_each_others_place() -> None:
    async with Host(budget=2, workers=2) as host:
        clients = [Client(worker, user) for worker in host.workers.values() for user in ("a", "b", "c")]
        await asyncio.gather(*(client.run(4, 0.0) for client in clients))
        assert host.engine.most <= 2


@in_loop
async def test_a_worker_dies_and_its_connections_come_back_when_they_have_ended() -> None:
    async with Host(budget=6, workers=3, ends_in_s=0.3) as host:
        clients = [Client(worker) for worker in host.workers.values() for _ in range(6)]
        doomed = [one for one in clients if one.worker.number == 2]
        others = [one for one in clients if one.worker.number != 2]
        tasks = [asyncio.create_task(one.run(1000, 0.0)) for one in doomed]
        running = [asyncio.create_task(one.run(60, 0.01)) for one in others]
        await host.until(lambda: all(len(worker.target.connections) >= 1 for worker in host.workers.values()))
        host.kill(2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*running)
        assert host.engine.most <= 6
        await all_are_usable(host)
        host.workers[2] = WorkerInMemory(host.leases, 2)
        late = Client(host.workers[2])
        await late.run(5, 0.0)
        assert late.answers == 5 and not late.errors
        assert host.engine.most <= 6


@in_loop
async def test_what_a_dead_worker_was_doing_is_cancelled() -> None:
    async with Host(budget=1, workers=2) as host:
        stuck = Client(host.workers[1])
        await stuck.run(1, 0.0)
        asking = asyncio.create_task(stuck.ask(FOR_EVER))
        await host.until(lambda: host.engine.busy == 1)
        waiting = asyncio.create_task(Client(host.workers[2]).run(1, 0.0))
        host.kill(1)
        asking.cancel()
        await asyncio.wait_for(waiting, 60)
        assert len(host.engine.cancelled) == 1
        assert host.engine.most == 1


@in_loop
async def test_without_coordinator_everything_goes_on_and_a_new_one_learns_what_is_open() -> None:
    async with Host(budget=5, workers=2, ends_in_s=0.2) as host:
        clients = [Client(worker) for worker in host.workers.values() for _ in range(10)]
        await asyncio.gather(*(client.run(5, 0.0) for client in clients))
        running = [asyncio.create_task(client.run(60, 0.01)) for client in clients]
        await asyncio.sleep(0.1)
        assert host.office is not None
        host.office.kill()
        answers = sum(client.answers for client in clients)
        await host.until(lambda: sum(client.answers for client in clients) > answers + 50)
        # One that a worker gives up meanwhile counts as well, as long as the engine has not ended it.
        connection = next(iter(host.workers[1].target.connections))
        connection.retired = True
        await host.until(lambda: connection.closed)
        host.office = Office(host.leases, host.engine, host.numbers, known=False)
        host.office.expect(2)
        await asyncio.gather(*running)
        assert not any(client.errors for client in clients)
        assert host.engine.most <= 5
        await all_are_usable(host)


@in_loop
async def test_a_failover_reaches_all_and_the_old_database_holds_nobody_up() -> None:
    async with Host(budget=4, workers=2) as host, Host(budget=4, workers=0) as other:
        clients = [Client(worker) for worker in host.workers.values() for _ in range(4)]
        await asyncio.gather(*(client.run(3, 0.0) for client in clients))
        assert host.office is not None
        host.office.lessor.moved(None, 1)
        running = [asyncio.create_task(client.run(3, 0.0)) for client in clients]
        host.office.lessor.moved(other.engine.path, 2)
        await asyncio.gather(*running)
        assert 1 <= other.engine.most <= 4
        await host.until(lambda: host.engine.open == 0)


@in_loop
async def test_a_smaller_share_closes_what_is_too_much() -> None:
    async with Host(budget=10, workers=2) as host:
        clients = [Client(worker) for worker in host.workers.values() for _ in range(20)]
        running = [asyncio.create_task(client.run(100_000, 0.0)) for client in clients]
        await host.until(lambda: host.engine.open == 10)
        assert host.office is not None
        host.office.lessor.configure(30, 15)  # 30 % of 13
        await host.until(lambda: host.engine.open <= 3)
        for task in running:
            task.cancel()
        assert not any(client.errors for client in clients)
        host.office.lessor.configure(100, 0)
        for worker in host.workers.values():
            worker.target.max_idle_percent = 0
        await host.until(lambda: host.engine.open == 0)


@in_loop
async def test_who_does_not_want_to_wait_gets_what_is_idle_elsewhere() -> None:
    async with Host(budget=1, workers=2) as host:
        await Client(host.workers[1]).run(1, 0.0)
        host.workers[2].target.borrow_timeout_s = 0.0
        second = Client(host.workers[2])
        for _ in range(20):  # within a quarter of a second it comes, unless this machine is very busy
            if b"Timed-out" not in await second.ask(ASK):
                return
        pytest.fail("it never came")


@in_loop
async def test_chaos() -> None:
    """Random demand, workers that die and come back, coordinators too: nobody starves, never too many are open."""
    chance = random.Random(7)
    async with Host(budget=5, workers=3, ends_in_s=0.05) as host:
        done = 0
        for _round in range(6):
            clients = [Client(host.workers[chance.randint(1, 3)]) for _ in range(chance.randint(1, 30))]
            await host.until(lambda: host.office is not None and host.office.lessor.open == host.engine.open)
            victim = chance.randint(1, 3)
            tasks = {one: asyncio.create_task(one.run(15, 0.02)) for one in clients}
            await asyncio.sleep(chance.random() * 0.2)
            if chance.random() < 0.5:
                host.kill(victim)
                for one, task in tasks.items():
                    if one.worker.number == victim:
                        task.cancel()
                host.workers[victim] = WorkerInMemory(host.leases, victim)
            else:
                victim = 0
                assert host.office is not None
                host.office.kill()
                host.office = Office(host.leases, host.engine, host.numbers, known=False)
                host.office.expect(3)
            survivors = [task for one, task in tasks.items() if one.worker.number != victim]
            await asyncio.wait_for(asyncio.gather(*survivors), 120)
            done += sum(one.answers for one in clients)
            assert host.engine.most <= 5
        assert done > 100
        await all_are_usable(host)
