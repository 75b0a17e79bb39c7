"""The worker on a store in memory: retries, deadlines, waking, a full store, and jobs that end meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import msgspec
import pytest

from mainstay.host.clock import SimulatedClock
from mainstay.model.errors import Permanent, Transient, invalid_value
from mainstay.model.records import Scope
from mainstay.store import Job, SqliteStore, StoreFull, Transaction
from mainstay.store.sqlite import SqliteTransaction
from mainstay.workflows.engine import (
    JOBS_AT_ONCE,
    RETRY_PAUSE_S,
    STORE_FULL_PAUSE_S,
    Finish,
    Next,
    Outcome,
    Program,
    Sleep,
    Step,
    Tools,
    Work,
    Worker,
    new_job,
)

SCOPE = Scope("123456789012", "us-east-1")
DEADLINE_S = 100.0


class FillableStore(SqliteStore):
    """A store whose disk can be full."""

    full = False

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        with super().transaction() as tx:
            yield tx
            if self.full:
                raise StoreFull("no space left")


class Bench:
    """A worker with one program of two steps whose first step the test gives."""

    def __init__(self, step: Callable[[Work], Awaitable[Outcome]]) -> None:
        self.store = FillableStore(":memory:")
        self.clock = SimulatedClock()
        self.runs = 0
        self.failures: list[str] = []
        self.told = 0

        async def counted(work: Work) -> Outcome:
            self.runs += 1
            return await step(work)

        async def last(work: Work) -> Outcome:
            return Finish()

        def failed(work: Work, error: Permanent) -> Finish:
            self.failures.append(error.message)
            return Finish()

        def overdue(work: Work, tx: Transaction) -> None:
            self.told += 1

        self.program = Program(
            name="p", first="one", steps={"one": Step(counted, ("last",)), "last": Step(last)},
            deadline_s=DEADLINE_S, failed=failed, overdue=overdue,
        )  # fmt: skip
        tools = Tools(
            store=self.store, fleet=cast(Any, None), proxies=cast(Any, None), clock=self.clock,
            randomness=cast(Any, None), settings=cast(Any, None), engines=cast(Any, None),
            certificates=cast(Any, None), vault=cast(Any, None),
        )  # fmt: skip
        self.worker = Worker({"p": self.program}, tools)

    def add(self, subject: str = "db:x", **fields: Any) -> Job:
        with self.store.transaction() as tx:
            job = new_job(self.program, subject, SCOPE, self.clock.wall())
            return tx.add_job(msgspec.structs.replace(job, **fields))

    def jobs(self) -> list[Job]:
        with self.store.read() as view:
            return view.jobs()

    async def turn(self, times: int = 1) -> None:
        for _ in range(times):
            await self.worker.drain()


async def away(work: Work) -> Outcome:
    raise Transient("away", retry_after_s=0.0)


async def asleep(work: Work) -> Outcome:
    return Sleep(50.0)


async def test_pauses_between_retries_grow_to_a_bound() -> None:
    bench = Bench(away)
    bench.add()
    pauses = []
    for attempt in range(len(RETRY_PAUSE_S) + 2):
        await bench.turn()
        (job,) = bench.jobs()
        assert job.attempts == attempt + 1
        pauses.append(round(job.due_at - bench.clock.wall(), 3))
        await bench.turn()
        assert bench.runs == attempt + 1, "not before the pause is over"
        bench.clock.advance(pauses[-1] + 0.001)
    assert pauses == [*RETRY_PAUSE_S, RETRY_PAUSE_S[-1], RETRY_PAUSE_S[-1]]


async def test_a_transient_error_may_ask_for_a_longer_pause() -> None:
    async def busy(work: Work) -> Outcome:
        raise Transient("busy", retry_after_s=7.0)

    bench = Bench(busy)
    bench.add()
    await bench.turn()
    assert bench.jobs()[0].due_at == pytest.approx(bench.clock.wall() + 7.0)


async def test_any_other_error_is_retried_and_never_ends_the_worker() -> None:
    async def broken(work: Work) -> Outcome:
        raise ZeroDivisionError

    bench = Bench(broken)
    bench.add()
    await bench.turn()
    assert bench.jobs()[0].attempts == 1


@pytest.mark.parametrize("error", [Permanent("never"), invalid_value("never")])
async def test_what_cannot_succeed_goes_to_the_programs_failed(error: Exception) -> None:
    async def refused(work: Work) -> Outcome:
        raise error

    bench = Bench(refused)
    bench.add()
    await bench.turn()
    assert bench.failures == ["never"] and bench.jobs() == []


@pytest.mark.parametrize("step", [away, asleep])
async def test_a_missed_deadline_is_told_once_and_the_work_goes_on(step: Any) -> None:
    bench = Bench(step)
    bench.add()
    for _ in range(6):
        await bench.turn()
        bench.clock.advance(60.0)
    assert bench.told == 1 and bench.runs == 6
    assert bench.jobs()[0].overdue


async def test_a_step_sleeps_until_it_is_due_or_its_subject_is_woken() -> None:
    bench = Bench(asleep)
    bench.add("db:x")
    bench.add("db:y")
    await bench.turn(3)
    assert bench.runs == 2
    bench.worker.wake("db:x")
    await bench.turn(3)
    assert bench.runs == 3
    bench.clock.advance(50.1)
    await bench.turn()
    assert bench.runs == 5


async def test_waking_a_subject_whose_other_job_is_busy_does_not_spin() -> None:
    release = asyncio.Event()

    async def step(work: Work) -> Outcome:
        if work.job.frame.get("busy"):
            await release.wait()
        return Sleep(50.0)

    bench = Bench(step)
    busy = bench.add(frame={"busy": True})
    with bench.store.transaction() as tx:
        tx.put_job(busy)
        tx._db.execute("UPDATE jobs SET program = 'q'")  # a second program of the same subject
    bench.add()
    task = asyncio.create_task(bench.worker.run())
    await asyncio.sleep(0.02)
    assert bench.runs == 2
    bench.worker.wake("db:x")
    await asyncio.sleep(0.1)
    assert bench.runs == 3, "the idle one once more, not again and again"
    release.set()
    await asyncio.sleep(0.05)
    assert bench.runs == 4, "and the busy one again when it had ended"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_more_jobs_than_places_all_run_and_no_waking_is_lost() -> None:
    bench = Bench(asleep)
    for number in range(JOBS_AT_ONCE + 5):
        bench.add(f"db:{number}")
    await bench.turn(3)
    assert bench.runs == JOBS_AT_ONCE + 5
    for number in range(JOBS_AT_ONCE + 5):
        bench.worker.wake(f"db:{number}")
    await bench.turn(3)
    assert bench.runs == 2 * (JOBS_AT_ONCE + 5)


async def test_a_full_store_pauses_the_job_instead_of_repeating_its_effect_at_once() -> None:
    async def forward(work: Work) -> Outcome:
        return Next("last")

    bench = Bench(forward)
    bench.add()
    bench.store.full = True
    for _ in range(10):
        await bench.turn()
    assert bench.runs == 1
    bench.clock.advance(STORE_FULL_PAUSE_S + 0.1)
    await bench.turn()
    assert bench.runs == 2
    bench.store.full = False
    bench.clock.advance(STORE_FULL_PAUSE_S + 0.1)
    await bench.turn(2)
    assert bench.jobs() == []


async def test_a_failure_that_cannot_be_recorded_pauses_too() -> None:
    bench = Bench(away)
    bench.add()
    bench.store.full = True
    for _ in range(10):
        await bench.turn()
    assert bench.runs == 1


async def test_what_a_step_of_a_job_that_has_ended_found_is_not_recorded() -> None:
    recorded = []

    async def outlived(work: Work) -> Outcome:
        with work.tools.store.transaction() as tx:
            tx.finish_job(work.job)
        return Finish(lambda tx: recorded.append(1))

    bench = Bench(outlived)
    bench.add()
    await bench.turn(3)
    assert recorded == [] and bench.runs == 1 and bench.jobs() == []


async def test_a_recording_that_fails_is_retried_and_leaves_nothing_behind() -> None:
    def record(tx: Transaction) -> None:
        tx.add_job(new_job(bench.program, "db:other", SCOPE, 0.0))
        raise ValueError

    async def step(work: Work) -> Outcome:
        return Finish(record)

    bench = Bench(step)
    bench.add()
    await bench.turn(5)
    (job,) = bench.jobs()
    assert bench.runs == 1 and job.attempts == 1


async def test_a_step_may_go_only_where_the_graph_says() -> None:
    async def astray(work: Work) -> Outcome:
        return Next("one")

    bench = Bench(astray)
    bench.add()
    await bench.turn()
    (job,) = bench.jobs()
    assert (job.step, job.attempts) == ("one", 1)


async def test_frames_are_merged_and_attempts_start_anew() -> None:
    async def forward(work: Work) -> Outcome:
        return Next("last", frame={"b": 2})

    bench = Bench(forward)
    bench.add(frame={"a": 1}, attempts=4)
    bench.worker._start_due_jobs()
    await asyncio.gather(*bench.worker._running.values())
    (job,) = bench.jobs()
    assert (job.step, job.frame, job.attempts) == ("last", {"a": 1, "b": 2}, 0)
