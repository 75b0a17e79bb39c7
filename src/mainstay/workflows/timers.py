"""Programs that only wait for a moment which their subject names, and do one thing then."""

from __future__ import annotations

import msgspec

from mainstay.model.errors import Permanent
from mainstay.model.records import Scope
from mainstay.store import Transaction
from mainstay.workflows.engine import Finish, Program, Work, new_job


def keep_timer(tx: Transaction, program: Program, subject: str, scope: Scope, due_at: float | None, now: float) -> None:
    """Makes the subject's timer agree with `due_at` (epoch seconds): there and due then, or gone if it is None."""
    waiting = [job for job in tx.jobs(subject) if job.program == program.name]
    for job in waiting:
        if due_at is None:
            tx.finish_job(job)
        else:
            tx.put_job(msgspec.structs.replace(job, due_at=due_at))
    if due_at is not None and not waiting:
        tx.add_job(msgspec.structs.replace(new_job(program, subject, scope, now), due_at=due_at))


def stays_as_it_is(_work: Work, _error: Permanent) -> Finish:
    """`Program.failed` of a timer: the worker has logged why, and its subject stays as it is."""
    return Finish()


def never_late(_work: Work, _tx: Transaction) -> None:
    """`Program.overdue` of a timer: it waits as long as it is told to."""
