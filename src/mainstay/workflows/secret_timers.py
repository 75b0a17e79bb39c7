"""What happens to a secret by itself: it is purged when its recovery window ends, and rotated when its rules say so."""

from __future__ import annotations

import msgspec

from mainstay.decide.secret_schedules import next_rotation
from mainstay.model.secrets_manager import StoredSecret
from mainstay.services.secretsmanager.lookup import find_secret
from mainstay.services.secretsmanager.values import delete_secret_now
from mainstay.store import Reader, Transaction
from mainstay.workflows import timers
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work
from mainstay.workflows.secret_rotation import RotationMeans, is_ready, new_version_id, start_rotation

LOOK_AGAIN_S = 60.0
DAY_S = 24 * 3600.0


def secret_of(reader: Reader, work: Work) -> StoredSecret | None:
    """The secret that a job's subject ("secret:<ARN>") names, or None when it has gone."""
    return find_secret(reader, work.job.scope, work.job.subject.removeprefix("secret:"))


def keep_timer(tx: Transaction, secret: StoredSecret, now: float) -> None:
    """Makes the rotation timer agree with the secret: there if it is to be rotated by itself, gone otherwise."""
    due_at = secret.next_rotation_at if secret.rotation_enabled and secret.deleted_at is None else None
    timers.keep_timer(tx, AWAIT_ROTATION, secret.subject, secret.scope, due_at, now)


async def _await_rotation(work: Work) -> Outcome:
    tools = work.tools
    now = tools.clock.wall()
    with tools.store.read() as view:
        secret = secret_of(view, work)
        if secret is None or secret.deleted_at is not None or not secret.rotation_enabled:
            return Finish()
        if secret.next_rotation_at is None:
            return Finish()
        if now < secret.next_rotation_at:
            return Sleep(secret.next_rotation_at - now)
        if not is_ready(view, secret):
            return Sleep(LOOK_AGAIN_S)
    means = RotationMeans(vault=tools.vault, randomness=tools.randomness, engines=tools.engines, now=now)

    def begin(tx: Transaction) -> None:
        upcoming = next_rotation(secret.rotation_rules, now)
        scheduled = msgspec.structs.replace(secret, next_rotation_at=upcoming)
        tx.put(scheduled)
        start_rotation(tx, means, scheduled, new_version_id(tools.randomness))

    return Next("await_rotation", begin)


async def _purge(work: Work) -> Outcome:
    tools = work.tools
    now = tools.clock.wall()
    with tools.store.read() as view:
        secret = secret_of(view, work)
    if secret is None or secret.purge_at is None:
        return Finish()
    if now < secret.purge_at:
        return Sleep(secret.purge_at - now)
    return Finish(lambda tx: delete_secret_now(tx, secret))


PURGE = Program(
    name="purge_secret",
    first="purge",
    steps={"purge": Step(_purge)},
    deadline_s=DAY_S,
    failed=timers.stays_as_it_is,
    overdue=timers.never_late,
)
AWAIT_ROTATION = Program(
    name="await_secret_rotation",
    first="await_rotation",
    steps={"await_rotation": Step(_await_rotation, successors=("await_rotation",))},
    deadline_s=30 * DAY_S,
    failed=timers.stays_as_it_is,
    overdue=timers.never_late,
)
