"""Asks for an instance's node spec to be computed again from its records."""

from __future__ import annotations

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.services.operations import Call
from mainstay.store import Job, Transaction

# The workflow of this name cannot be imported here: its module uses `parameters`, which uses this one.
PROGRAM = "refresh_db_instance"
FIRST_STEP = "put_node"
DEADLINE_S = 120.0


def request_refresh(call: Call, instance: DBInstance) -> None:
    """`request_refresh_in` for handlers."""
    request_refresh_in(call.tx, call.clock.wall(), instance)


def request_refresh_in(tx: Transaction, now: float, instance: DBInstance) -> None:
    """Starts the refresh of the instance, or brings the one under way forward: it reads the records when it runs."""
    subject = f"db:{instance.dbi_resource_id}"
    for job in tx.jobs(subject):
        if job.program == PROGRAM:
            tx.put_job(msgspec.structs.replace(job, due_at=min(job.due_at, now)))
            return
    tx.add_job(
        Job(
            program=PROGRAM,
            subject=subject,
            scope=instance.scope,
            step=FIRST_STEP,
            due_at=now,
            created_at=now,
            deadline_at=now + DEADLINE_S,
        )
    )
