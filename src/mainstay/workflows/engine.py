"""The workflow engine: advances job rows one short step at a time.

Guarantees: a step's records and its successor are written in one transaction; a process that dies anywhere repeats at
most the step it was in; a `Transient` failure is retried with growing pauses; a `Permanent` one goes to the program's
`failed`; a missed deadline raises one event that a person sees, and the work goes on.
A step reads, does at most one effect, and returns what comes next. Falling off the end is not possible: it must return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from mainstay.engines.registry import Engines
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import Clock
from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError, MainstayError, Permanent, Transient
from mainstay.model.records import Scope
from mainstay.settings import Settings
from mainstay.store import Conflict, Job, Store, StoreFull, Transaction
from mainstay.workflows.fleet import Fleet
from mainstay.workflows.proxy_fleet import ProxyFleet

RETRY_PAUSE_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
JOBS_AT_ONCE = 16
STORE_FULL_PAUSE_S = 2.0

T = TypeVar("T")
Recording = Callable[[Transaction], None]
log = structlog.get_logger()


def nothing_to_record(_tx: Transaction) -> None:
    """For outcomes that change only the job."""


@dataclass(frozen=True)
class Next:
    """Go on with another step, remembering `frame`; `record` runs in the same transaction."""

    step: str
    record: Recording = nothing_to_record
    frame: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sleep:
    """Repeat this step later, or as soon as something is observed of the subject."""

    seconds: float


@dataclass(frozen=True)
class Finish:
    """The workflow has ended; `record` runs in the same transaction."""

    record: Recording = nothing_to_record


Outcome = Next | Sleep | Finish


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every step may use."""

    store: Store
    fleet: Fleet
    proxies: ProxyFleet
    clock: Clock
    randomness: Randomness
    settings: Settings
    engines: Engines
    certificates: CertificateAuthorities
    vault: Vault


@dataclass(frozen=True)
class Work:
    """One run of one step."""

    job: Job
    tools: Tools


StepFunction = Callable[[Work], Awaitable[Outcome]]


@dataclass(frozen=True)
class Step:
    """A named step and the steps that may follow it: the graph is data, checked at every advance."""

    run: StepFunction
    successors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Program:
    """A workflow: steps by name, the first one, and what happens when it cannot succeed.

    `overdue` is called once, in a transaction, when `deadline_s` has passed; it should tell a person.
    """

    name: str
    first: str
    steps: Mapping[str, Step]
    deadline_s: float
    failed: Callable[[Work, Permanent], Outcome]
    overdue: Callable[[Work, Transaction], None]


def new_job(program: Program, subject: str, scope: Scope, now: float, frame: Mapping[str, Any] | None = None) -> Job:
    """The row that starts a program; the caller adds it in the transaction that accepts the request."""
    return Job(
        program=program.name,
        subject=subject,
        scope=scope,
        step=program.first,
        frame=dict(frame or {}),
        due_at=now,
        created_at=now,
        deadline_at=now + program.deadline_s,
    )


def bring_forward(tx: Transaction, subject: str, now: float) -> None:
    """Makes every job of the subject due at once: what it waits for may have come."""
    for job in tx.jobs(subject):
        tx.put_job(msgspec.structs.replace(job, due_at=min(job.due_at, now)))


class Worker:
    """Runs due jobs until cancelled. `wake` makes a subject's jobs due at once."""

    def __init__(self, programs: Mapping[str, Program], tools: Tools) -> None:
        self._programs = programs
        self._tools = tools
        self._poke = asyncio.Event()
        self._woken: set[str] = set()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._look_again: dict[int, str] = {}
        """Jobs that were woken while a step of theirs ran, with their subjects."""
        self._woken_jobs: dict[int, str] = {}
        self._held_until: dict[int, float] = {}
        """Jobs whose last outcome could not be recorded: not before this time of the monotonic clock."""

    def wake(self, subject: str | None = None) -> None:
        """Something was observed of this subject, or (None) a job was added."""
        if subject is not None:
            self._woken.add(subject)
        self._poke.set()

    async def run(self) -> None:
        """Forever."""
        while True:
            self._poke.clear()
            pause_s = self._start_due_jobs()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._poke.wait()

    async def drain(self) -> None:
        """Runs what is due now and waits for it: one turn of the crank, for tests that hold the clock."""
        self._start_due_jobs()
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=False)

    def _start_due_jobs(self) -> float | None:
        """Starts what is due; returns in how many seconds the next job is, None without one."""
        now = self._tools.clock.wall()
        monotonic = self._tools.clock.monotonic()
        self._held_until = {job_id: until for job_id, until in self._held_until.items() if until > monotonic}
        woken = self._take_woken()
        due = {job.id: job for job in self._tools.store.due_jobs(now, JOBS_AT_ONCE * 4)}
        for job in (due | woken).values():
            if job.id in self._running:
                if job.id in woken:
                    self._look_again[job.id] = job.subject
            elif len(self._running) >= JOBS_AT_ONCE:
                if job.id in woken:
                    self._woken_jobs[job.id] = job.subject
            elif job.id not in self._held_until:
                task = asyncio.create_task(self._advance(job))
                self._running[job.id] = task
                task.add_done_callback(partial(self._ended, job.id))
        due_at = self._tools.store.next_due_at()
        if due_at is None:
            return None
        return max(0.05 if self._running or self._held_until else 0.0, due_at - now)

    def _take_woken(self) -> dict[int, Job]:
        """Every job of the subjects woken, and the jobs whose step was running when they were."""
        subjects, self._woken = self._woken, set()
        jobs, self._woken_jobs = self._woken_jobs, {}
        with self._tools.store.read() as view:
            found = {job.id: job for subject in subjects for job in view.jobs(subject)}
            found |= {job.id: job for subject in {*jobs.values()} for job in view.jobs(subject) if job.id in jobs}
        return found

    def _ended(self, job_id: int, _task: asyncio.Task[None]) -> None:
        self._running.pop(job_id, None)
        if (subject := self._look_again.pop(job_id, None)) is not None:
            self._woken_jobs[job_id] = subject
        self._poke.set()

    async def _advance(self, job: Job) -> None:
        """One step of one job, and the record of it."""
        program = self._programs[job.program]
        work = Work(job, self._tools)
        try:
            outcome = await program.steps[job.step].run(work)
        except (Permanent, ApiError) as error:  # what the API would refuse cannot be healed by repeating it either
            log.error("workflow.failed", program=job.program, step=job.step, subject=job.subject, error=error.message)
            outcome = program.failed(work, error if isinstance(error, Permanent) else Permanent(error.message))
        except Exception as error:  # a step must never end the worker: whatever it was is retried, visibly
            self._retry(job, error)
            return
        self._record(program, work, outcome)

    def _record(self, program: Program, work: Work, outcome: Outcome) -> None:
        job = work.job
        now = self._tools.clock.wall()
        try:
            with self._tools.store.transaction() as tx:
                if all(present.id != job.id for present in tx.jobs(job.subject)):
                    raise Conflict(f"job {job.id} was ended while its step ran: what the step found counts no more")
                if now > job.deadline_at and not job.overdue and not isinstance(outcome, Finish):
                    program.overdue(work, tx)
                    job = msgspec.structs.replace(job, overdue=True)
                match outcome:
                    case Finish(record):
                        record(tx)
                        tx.finish_job(job)
                    case Next(step, record, frame):
                        if step not in program.steps[job.step].successors:
                            raise AssertionError(f"{program.name}: {job.step} may not be followed by {step}")
                        record(tx)
                        remembered = job.frame if frame is None else {**job.frame, **frame}
                        tx.put_job(msgspec.structs.replace(job, step=step, frame=remembered, due_at=now, attempts=0))
                    case Sleep(seconds):
                        tx.put_job(msgspec.structs.replace(job, due_at=now + seconds, attempts=0))
        except StoreFull as error:
            log.error("store.full", error=error.message)
            self._hold(work.job)
        except Conflict as error:
            log.warning("workflow.conflict", program=program.name, subject=job.subject, error=error.message)
            self._hold(work.job)
        except Exception as error:  # as in `_advance`: retried, visibly
            self._retry(work.job, error)

    def _hold(self, job: Job) -> None:
        """Nothing could be recorded, so the row still says that the job is due: without this it would run at once."""
        self._held_until[job.id] = self._tools.clock.monotonic() + STORE_FULL_PAUSE_S

    def _retry(self, job: Job, error: Exception) -> None:
        pause_s = RETRY_PAUSE_S[min(job.attempts, len(RETRY_PAUSE_S) - 1)]
        if isinstance(error, Transient):
            pause_s = max(pause_s, error.retry_after_s)
            log.warning("workflow.retry", program=job.program, step=job.step, subject=job.subject, error=error.message)
        else:
            log.exception("workflow.unexpected", program=job.program, step=job.step, subject=job.subject)
        later = msgspec.structs.replace(job, due_at=self._tools.clock.wall() + pause_s, attempts=job.attempts + 1)
        self._hold(job)
        with suppress(MainstayError):
            self._put_retry(job, later)
            del self._held_until[job.id]

    def _put_retry(self, job: Job, later: Job) -> None:
        with self._tools.store.transaction() as tx:
            if self._tools.clock.wall() > job.deadline_at and not job.overdue:
                self._programs[job.program].overdue(Work(job, self._tools), tx)
                later = msgspec.structs.replace(later, overdue=True)
            tx.put_job(later)
