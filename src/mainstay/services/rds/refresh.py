"""Asks for an instance's node spec to be computed again from its records."""

from __future__ import annotations

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.services.operations import Call
from mainstay.store import Job

PROGRAM = "refresh_db_instance"
FIRST_STEP = "start"
DEADLINE_S = 600.0


def request_refresh(call: Call, instance: DBInstance) -> None:
    """Starts the refresh of the instance, or brings the one under way forward: it reads the records when it runs."""
    now = call.clock.wall()
    subject = f"db:{instance.dbi_resource_id}"
    for job in call.tx.jobs(subject):
        if job.program == PROGRAM:
            call.tx.put_job(msgspec.structs.replace(job, due_at=min(job.due_at, now)))
            return
    call.tx.add_job(
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
