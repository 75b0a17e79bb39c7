"""A user of a DB instance gets a new password: the single-user strategy of Secrets Manager, without a Lambda function.

create_secret -> set_secret -> test_secret, after AWS's rotation steps of these names; AWSPENDING holds the new password
from the first step on, so every later step can be repeated. The engine gets a verifier, never the password. For the
master user the instance's own record is changed, or Mainstay would set the old password again.
Source: Secrets Manager user guide, "Lambda rotation functions".
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from mainstay.decide.secret_schedules import next_rotation
from mainstay.decide.secret_versions import attached, find_version, labelled, without_stage
from mainstay.engines.logins import EngineLogins, logins
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Permanent
from mainstay.model.login_place import LoginPlace
from mainstay.model.secrets_manager import CURRENT, PENDING, PREVIOUS, StoredSecret
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.services.secretsmanager.checks import Value
from mainstay.services.secretsmanager.database_secret import (
    DatabaseSecret,
    instance_for,
    read_database_secret,
    require_rotatable,
)
from mainstay.services.secretsmanager.encryption import require_usable
from mainstay.services.secretsmanager.interfaces import current_value
from mainstay.services.secretsmanager.lookup import find_secret
from mainstay.services.secretsmanager.values import put_version, read_value
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, new_job
from mainstay.workflows.login_places import login_place
from mainstay.workflows.rotate_master_user_password import SALT_BYTES, new_master_password, put_master_verifier

TEST_AGAIN_S = 1.0


def start_database_rotation(tx: Transaction, secret: StoredSecret, version_id: str, now: float) -> None:
    """Begins the rotation to a version of this id. Raises `Duplicate` if one is under way."""
    tx.put(msgspec.structs.replace(secret, rotation_failure=""))
    tx.add_job(new_job(ROTATE_DATABASE, secret.subject, secret.scope, now, {"version_id": version_id}))


def _secret_of(reader: Reader, work: Work) -> StoredSecret:
    secret = find_secret(reader, work.job.scope, work.job.subject.removeprefix("secret:"))
    if secret is None or secret.deleted_at is not None:
        raise Permanent("the secret was deleted")
    return secret


async def _create_secret(work: Work) -> Outcome:
    tools = work.tools
    version_id = work.job.frame["version_id"]
    with tools.store.read() as view:
        secret = _secret_of(view, work)
        if find_version(secret.versions, version_id) is not None:
            return Next("set_secret")
        require_usable(view, secret)
        credentials = require_rotatable(view, tools.vault, secret)
        instance = instance_for(view, secret.scope, credentials)
    rules = tools.engines.rules(instance.engine)
    password = new_master_password(tools.randomness, rules)
    verifier = rules.password_verifier(credentials.username, password, tools.randomness.token_bytes(SALT_BYTES))
    value = credentials.with_password(password)

    def record(tx: Transaction) -> None:
        now = tools.clock.wall()
        put_version(tx, tools.vault, tools.randomness, secret, version_id, value, stages=(PENDING,), now=now)

    return Next("set_secret", record, {"verifier": verifier})


def _pending(reader: Reader, work: Work, secret: StoredSecret) -> DatabaseSecret:
    version = labelled(secret.versions, PENDING)
    if version is None or version.version_id != work.job.frame["version_id"]:
        raise Permanent("the staging label AWSPENDING was moved while the secret was being rotated")
    return read_database_secret(read_value(reader, work.tools.vault, secret, version.version_id))


def _where(
    reader: Reader, work: Work, secret: StoredSecret, credentials: DatabaseSecret
) -> tuple[DBInstance, LoginPlace, EngineLogins]:
    instance = instance_for(reader, secret.scope, credentials)
    place = login_place(reader, work.tools, instance, credentials.database)
    return instance, place, logins(instance.engine)


async def _set_secret(work: Work) -> Outcome:
    tools = work.tools
    verifier = work.job.frame["verifier"]
    with tools.store.read() as view:
        secret = _secret_of(view, work)
        pending = _pending(view, work, secret)
        instance, place, engine = _where(view, work, secret, pending)
        known = _known(view, work, secret)
        master = _master(view, work, pending)
    if pending.username == instance.master_username:
        return Next("test_secret", lambda tx: _set_master(tx, instance, verifier, tools.clock.wall()))
    if await engine.may_log_in(place, pending.username, pending.password):
        return Next("test_secret")
    for one in [master] if master is not None else known:
        if await engine.may_log_in(place, one.username, one.password):
            await engine.set_password(
                place,
                one.username,
                one.password,
                target=pending.username,
                new=pending.password,
                verifier=verifier,
            )
            return Next("test_secret")
    raise Permanent(
        f"DB instance {instance.db_instance_identifier} takes none of the passwords that the secret has for"
        f" {pending.username}" + (", and not the master's in masterarn" if master is not None else "")
    )


def _known(reader: Reader, work: Work, secret: StoredSecret) -> list[DatabaseSecret]:
    versions = (labelled(secret.versions, stage) for stage in (CURRENT, PREVIOUS))
    values = (read_value(reader, work.tools.vault, secret, one.version_id) for one in versions if one is not None)
    return [read_database_secret(value) for value in values]


def _master(reader: Reader, work: Work, pending: DatabaseSecret) -> DatabaseSecret | None:
    """The master user's credentials from `masterarn`; a managed secret holds name and password alone."""
    if not pending.master_arn:
        return None
    text = current_value(reader, work.tools.vault, work.job.scope, pending.master_arn)
    with suppress(msgspec.DecodeError):  # told as what it is below
        value = msgspec.json.decode(text)
        if isinstance(value, dict):
            text = msgspec.json.encode({"engine": pending.engine, **value}).decode()
    return read_database_secret(Value(text, binary=False))


def _set_master(tx: Transaction, instance: DBInstance, verifier: str, now: float) -> None:
    request_refresh_in(tx, now, put_master_verifier(tx, instance, verifier, now, change=instance.change))


async def _test_secret(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.read() as view:
        secret = _secret_of(view, work)
        pending = _pending(view, work, secret)
        instance, place, engine = _where(view, work, secret, pending)
    if await engine.may_log_in(place, pending.username, pending.password):
        return Finish(lambda tx: _move_stages(work, tx))
    if pending.username == instance.master_username:
        return Sleep(TEST_AGAIN_S)  # the refresh has not reached the engine yet
    raise Permanent(f"DB instance {instance.db_instance_identifier} does not take the new password that was set")


def _move_stages(work: Work, tx: Transaction) -> None:
    secret = find_secret(tx, work.job.scope, work.job.subject.removeprefix("secret:"))
    version_id = work.job.frame["version_id"]
    if secret is None or find_version(secret.versions, version_id) is None:
        return
    now = work.tools.clock.wall()
    upcoming = next_rotation(secret.rotation_rules, now) if secret.rotation_enabled else None
    versions = attached(without_stage(secret.versions, PENDING), version_id, (CURRENT,))
    tx.put(
        msgspec.structs.replace(
            secret, versions=versions, rotated_at=now, changed_at=now, next_rotation_at=upcoming, rotation_failure=""
        )
    )


def _failed(work: Work, error: Permanent) -> Finish:
    """The secret keeps the reason; AWSPENDING stays where it is, as on AWS, until the next rotation."""
    return Finish(lambda tx: _keep_reason(work, tx, error.message))


def _late(work: Work, tx: Transaction) -> None:
    _keep_reason(work, tx, "The rotation has not ended yet: the DB instance does not answer.")


def _keep_reason(work: Work, tx: Transaction, reason: str) -> None:
    secret = find_secret(tx, work.job.scope, work.job.subject.removeprefix("secret:"))
    if secret is not None:
        tx.put(msgspec.structs.replace(secret, rotation_failure=reason))


ROTATE_DATABASE = Program(
    name="rotate_database_secret",
    first="create_secret",
    steps={
        "create_secret": Step(_create_secret, successors=("set_secret",)),
        "set_secret": Step(_set_secret, successors=("test_secret",)),
        "test_secret": Step(_test_secret),
    },
    deadline_s=900.0,
    failed=_failed,
    overdue=_late,
)
