"""Something that an instance depends on has changed (a security group, a parameter): bring its node up to date.

No status word: users see a change only in what it is about, as on RDS. A change that arrives while the refresh runs is
not lost: `confirm` reads the records again in the same turn in which the job ends.
"""

from __future__ import annotations

from mainstay.services.rds.refresh import DEADLINE_S, FIRST_STEP, PROGRAM
from mainstay.workflows.converge import fail, put_present_specs, tell_overdue
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Step, Work
from mainstay.workflows.node_specs import instance_of, refresh_nodes


async def _start(work: Work) -> Outcome:
    specs = await put_present_specs(work)
    if specs is None:
        return Finish()
    return Next("confirm", frame={"generations": [spec.generation for spec in specs]})


async def _confirm(work: Work) -> Outcome:
    """Nothing is awaited here, so no request comes between this look and the end of the job."""
    tools = work.tools
    with tools.store.transaction() as tx:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is None or instance.change == "deleting":
            return Finish()
        generations = [spec.generation for spec in refresh_nodes(tx, tools, instance)]
        settled = generations == work.job.frame["generations"]
    return Finish() if settled else Next(FIRST_STEP)


REFRESH = Program(
    name=PROGRAM,
    first=FIRST_STEP,
    steps={FIRST_STEP: Step(_start, successors=("confirm",)), "confirm": Step(_confirm, successors=(FIRST_STEP,))},
    deadline_s=DEADLINE_S,
    failed=fail,
    overdue=tell_overdue,
)
