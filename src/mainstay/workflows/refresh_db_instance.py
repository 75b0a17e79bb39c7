"""Something that an instance depends on has changed (a security group, a parameter): bring its node up to date.

No status word: users see a change only in what it is about, as on RDS.
"""

from __future__ import annotations

from mainstay.workflows.converge import fail, tell_overdue
from mainstay.workflows.engine import Finish, Outcome, Program, Step, Work
from mainstay.workflows.node_specs import instance_of, refresh_node, with_private_key


async def _put_node(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.transaction() as tx:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is None or instance.change == "deleting":
            return Finish()
        spec = refresh_node(tx, tools, instance)
    await tools.fleet.put_node(with_private_key(spec, tools))
    return Finish()


REFRESH = Program(
    name="refresh_db_instance",
    first="put_node",
    steps={"put_node": Step(_put_node)},
    deadline_s=120.0,
    failed=fail,
    overdue=tell_overdue,
)
