"""Asking for a refresh."""

from __future__ import annotations

import msgspec

from harness.rds_calls import Rds
from mainstay.services.rds.refresh import DEADLINE_S, FIRST_STEP, PROGRAM, request_refresh
from mainstay.workflows.refresh_db_instance import REFRESH


def test_the_job_starts_the_workflow(rds: Rds) -> None:
    assert (REFRESH.name, REFRESH.first, REFRESH.deadline_s) == (PROGRAM, FIRST_STEP, DEADLINE_S)
    rds.run(request_refresh, rds.instance())
    (job,) = rds.jobs()
    assert (job.program, job.subject, job.step, job.scope) == (PROGRAM, "db:db-DB1", FIRST_STEP, rds.scope)
    assert job.due_at == job.created_at == job.deadline_at - DEADLINE_S == rds.clock.wall()


def test_a_refresh_under_way_is_brought_forward(rds: Rds) -> None:
    instance = rds.instance()
    rds.run(request_refresh, instance)
    (job,) = rds.jobs()
    with rds.store.transaction() as tx:
        tx.put_job(msgspec.structs.replace(job, due_at=rds.clock.wall() + 30, step="put_node", attempts=3))
    rds.run(request_refresh, instance)
    (after,) = rds.jobs()
    assert (after.id, after.due_at, after.attempts) == (job.id, rds.clock.wall(), 3)
