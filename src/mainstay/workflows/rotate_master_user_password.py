"""A master password that RDS manages gets a new value: in the engine first, in the secret as soon as it is there.

The new password is recorded at once, sealed, as the secret's AWSPENDING version, and its verifier as what the instance
wants; from then on any process may die at any moment and what is left agrees in the end. AWSCURRENT moves when the
engine is seen to have taken the verifier, so it names a password that works but for the moment between the two.
Source: RDS user guide, "Password management with Amazon RDS and AWS Secrets Manager".
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from mainstay.decide.secret_schedules import next_rotation
from mainstay.decide.secret_versions import attached, find_version, labelled, without_stage
from mainstay.engines.base import EngineRules
from mainstay.engines.registry import Engines
from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError, Permanent, Transient
from mainstay.model.node import leading
from mainstay.model.secrets_manager import CURRENT, PENDING, StoredSecret
from mainstay.services.rds.events import record_event
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.services.secretsmanager.checks import Value
from mainstay.services.secretsmanager.random_password import LOWERCASE, NUMBERS, UPPERCASE, random_password
from mainstay.services.secretsmanager.values import put_version, read_value
from mainstay.store import Reader, Transaction
from mainstay.workflows.converge import OBSERVE_AGAIN_S, put_present_specs
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, new_job
from mainstay.workflows.node_specs import instance_of, nodes_of, replicas_of

RESETTING = "resetting-master-credentials"
PASSWORD_LENGTH = 32
PASSWORD_PUNCTUATION = "-_.~"  # noqa: S105 - what a URL carries without escapes
SALT_BYTES = 16
DEADLINE_S = 900.0
REPLICAS_MAX = 10_000
KEY_AGAIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class RotationMeans:
    """What starting a rotation needs. `now` is epoch seconds."""

    vault: Vault
    randomness: Randomness
    engines: Engines
    now: float


def new_master_password(randomness: Randomness, rules: EngineRules) -> str:
    """A password that the engine takes and a connection URL carries as it is: 190 bits."""
    kinds = [LOWERCASE, UPPERCASE, NUMBERS, PASSWORD_PUNCTUATION]
    password = random_password(randomness, PASSWORD_LENGTH, "".join(kinds), kinds)
    rules.check_master_password(password)
    return password


def master_value(username: str, password: str) -> Value:
    """What the secret holds: JSON of these two, as on RDS."""
    return Value(json.dumps({"username": username, "password": password}), binary=False)


def master_secret_of(reader: Reader, instance: DBInstance) -> StoredSecret | None:
    """The secret in which RDS keeps the instance's master password, None if the user keeps it."""
    found = reader.find(StoredSecret, instance.scope, "owner", f"db:{instance.dbi_resource_id}")
    return found[0] if found else None


def is_rotating(reader: Reader, instance: DBInstance) -> bool:
    """Whether a new master password is on its way."""
    return any(job.program == ROTATE_MASTER.name for job in reader.jobs(f"db:{instance.dbi_resource_id}"))


def start_master_rotation(
    tx: Transaction,
    means: RotationMeans,
    secret: StoredSecret,
    instance: DBInstance,
    version_id: str,
    *,
    shown: bool = False,
) -> DBInstance:
    """Records the new password and starts the workflow that brings it into the engine; returns the stored instance.

    `shown`: the instance is resetting-master-credentials until it has. Raises `Duplicate` if one is under way.
    """
    rules = means.engines.rules(instance.engine)
    password = new_master_password(means.randomness, rules)
    verifier = rules.password_verifier(instance.master_username, password, means.randomness.token_bytes(SALT_BYTES))
    value = master_value(instance.master_username, password)
    secret = msgspec.structs.replace(secret, rotation_failure="")
    put_version(tx, means.vault, means.randomness, secret, version_id, value, stages=(PENDING,), now=means.now)
    instance = put_master_verifier(tx, instance, verifier, means.now, change=RESETTING if shown else instance.change)
    frame = {"secret": secret.name, "version_id": version_id, "verifier": verifier}
    tx.add_job(new_job(ROTATE_MASTER, f"db:{instance.dbi_resource_id}", instance.scope, means.now, frame))
    return instance


def put_master_verifier(tx: Transaction, instance: DBInstance, verifier: str, now: float, *, change: str) -> DBInstance:
    """Records another master password; somebody must bring it into the engine. Returns the stored instance."""
    instance = msgspec.structs.replace(instance, master_password_verifier=verifier, change=change)
    tx.put(instance)
    for replica in _all_replicas_of(tx, instance):
        # The password reaches their engines by replication; their records must say the same.
        tx.put(msgspec.structs.replace(replica, master_password_verifier=verifier))
        request_refresh_in(tx, now, replica)
    return instance


def _all_replicas_of(reader: Reader, instance: DBInstance) -> list[DBInstance]:
    found = replicas_of(reader, instance)
    for one in found:  # grows while it is walked
        if len(found) < REPLICAS_MAX:
            found += replicas_of(reader, one)
    return found


async def _put_node(work: Work) -> Outcome:
    return Finish() if await put_present_specs(work) is None else Next("await_settled")


async def _await_settled(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.read() as view:
        instance = instance_of(view, work.job.scope, work.job.subject)
        if instance is None or instance.change == "deleting":
            return Finish()
        specs = {node.spec.node_id: node.spec for node in nodes_of(view, instance)}
    status = leading([tools.fleet.observe(node_id) for node_id in instance.node_ids])
    spec = None if status is None else specs.get(status.node_id)
    if status is None or spec is None or spec.master.password_verifier != instance.master_password_verifier:
        return Next("put_node")
    if status.fatal and instance.change == RESETTING:
        # The engine does not run. Others must be able to repair the instance; the new password waits for that.
        return Next("await_settled", lambda tx: _step_back(work, tx, instance, status.failure))
    if status.settled_generation < spec.generation:
        return Sleep(OBSERVE_AGAIN_S)
    return Finish(lambda tx: _move_stages(work, tx, instance))


def _step_back(work: Work, tx: Transaction, instance: DBInstance, reason: str) -> None:
    tx.put(msgspec.structs.replace(instance, change=""))
    _impair(tx, instance, reason)
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0067", reason=reason)


def _move_stages(work: Work, tx: Transaction, instance: DBInstance) -> None:
    """The engine has the password: AWSPENDING becomes AWSCURRENT, and what was that AWSPREVIOUS."""
    now = work.tools.clock.wall()
    version_id = work.job.frame["version_id"]
    secret = master_secret_of(tx, instance)
    if secret is not None and find_version(secret.versions, version_id) is not None:
        versions = attached(without_stage(secret.versions, PENDING), version_id, (CURRENT,))
        upcoming = next_rotation(secret.rotation_rules, now) if secret.rotation_enabled else None
        tx.put(
            msgspec.structs.replace(
                secret,
                versions=versions,
                rotated_at=now if labelled(secret.versions, CURRENT) is not None else None,
                changed_at=now,
                next_rotation_at=upcoming,
                rotation_failure="",
            )
        )
    if instance.change == RESETTING:
        tx.put(msgspec.structs.replace(instance, change="", failure=""))
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0016")


def _failed(work: Work, error: Permanent) -> Finish:
    """The old password stays the wanted one, and the secret is impaired until a rotation succeeds."""

    def record(tx: Transaction) -> None:
        instance = instance_of(tx, work.job.scope, work.job.subject)
        if instance is None:
            return
        _impair(tx, instance, error.message)
        verifier = _present_verifier(work, tx, instance) or instance.master_password_verifier
        now = work.tools.clock.wall()
        change = "" if instance.change == RESETTING else instance.change
        request_refresh_in(tx, now, put_master_verifier(tx, instance, verifier, now, change=change))
        record_event(tx, work.tools.clock, instance, "RDS-EVENT-0067", reason=error.message)

    return Finish(record)


def _present_verifier(work: Work, tx: Transaction, instance: DBInstance) -> str | None:
    """Of the password that is AWSCURRENT, None if there is none yet."""
    secret = master_secret_of(tx, instance)
    version = None if secret is None else labelled(secret.versions, CURRENT)
    if secret is None or version is None:
        return None
    try:
        value = read_value(tx, work.tools.vault, secret, version.version_id)
    except ApiError as error:  # its key is not usable: without it nobody knows the password to go back to
        raise Transient(error.message, retry_after_s=KEY_AGAIN_S) from error
    password = json.loads(value.text)["password"]
    rules = work.tools.engines.rules(instance.engine)
    return rules.password_verifier(instance.master_username, password, work.tools.randomness.token_bytes(SALT_BYTES))


def _late(work: Work, tx: Transaction) -> None:
    instance = instance_of(tx, work.job.scope, work.job.subject)
    if instance is not None:
        reason = "The new master password has not reached the engine yet. It will as soon as the instance runs."
        _impair(tx, instance, reason)
        record_event(tx, work.tools.clock, instance, "RDS-EVENT-0067", reason=reason)


def _impair(tx: Transaction, instance: DBInstance, reason: str) -> None:
    secret = master_secret_of(tx, instance)
    if secret is not None:
        tx.put(msgspec.structs.replace(secret, rotation_failure=reason))


ROTATE_MASTER = Program(
    name="rotate_master_user_password",
    first="put_node",
    steps={
        "put_node": Step(_put_node, successors=("await_settled",)),
        "await_settled": Step(_await_settled, successors=("put_node", "await_settled")),
    },
    deadline_s=DEADLINE_S,
    failed=_failed,
    overdue=_late,
)
