"""Changes accepted without ApplyImmediately come into force at the start of the next maintenance window."""

from __future__ import annotations

from mainstay.decide.db_instance_status import accepts_changes, db_instance_status
from mainstay.decide.windows import is_inside, next_start, parse_maintenance_window
from mainstay.store import Transaction
from mainstay.workflows.converge import fail, tell_overdue
from mainstay.workflows.engine import Finish, Outcome, Program, Sleep, Step, Work
from mainstay.workflows.fleet import last_seen_leader
from mainstay.workflows.modification import put_into_force
from mainstay.workflows.node_specs import instance_of
from mainstay.workflows.repositories import Makings

LOOK_AGAIN_S = 30.0
TWO_WEEKS_S = 14 * 24 * 3600.0


async def _await_window(work: Work) -> Outcome:
    tools = work.tools
    now = tools.clock.wall()
    with tools.store.read() as view:
        instance = instance_of(view, work.job.scope, work.job.subject)
    if instance is None or not instance.pending:
        return Finish()
    window = parse_maintenance_window(instance.preferred_maintenance_window)
    if not is_inside(window, now):
        return Sleep(max(1.0, next_start(window, now) - now))
    if not accepts_changes(db_instance_status(instance, last_seen_leader(tools.fleet, instance))):
        return Sleep(LOOK_AGAIN_S)

    def apply(tx: Transaction) -> None:
        makings = Makings(tools.vault, tools.randomness, now)
        put_into_force(tx, tools.clock, makings, instance, instance)

    return Finish(apply)


APPLY_PENDING = Program(
    name="apply_pending_modifications",
    first="await_window",
    steps={"await_window": Step(_await_window)},
    deadline_s=TWO_WEEKS_S,
    failed=fail,
    overdue=tell_overdue,
)
