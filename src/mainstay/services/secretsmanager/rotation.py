"""RotateSecret and CancelRotateSecret. Source: Secrets Manager API reference; docs/secrets-manager.md for what differs.

There are no Lambda functions here: Mainstay itself rotates the master passwords that RDS manages, and secrets that hold
the credentials of a user of one of its DB instances.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.secret_schedules import check_rules, next_rotation
from mainstay.decide.secret_versions import find_version, labelled
from mainstay.engines.registry import Engines
from mainstay.host.vault import Vault
from mainstay.model.secrets_manager import PENDING, RotationRules, StoredSecret
from mainstay.services.operations import Call, Request, Result
from mainstay.services.secretsmanager.checks import check_token, invalid_parameter, invalid_request, refuse_unbuilt
from mainstay.services.secretsmanager.database_secret import require_rotatable
from mainstay.services.secretsmanager.encryption import require_usable
from mainstay.services.secretsmanager.lookup import find_secret
from mainstay.services.secretsmanager.table import demand, on_secret
from mainstay.services.secretsmanager.view import named
from mainstay.workflows.rotate_database_secret import ROTATE_DATABASE
from mainstay.workflows.secret_rotation import RotationMeans, is_ready, is_under_way, start_rotation
from mainstay.workflows.secret_timers import keep_timer

DEFAULT_RULES = RotationRules(automatically_after_days=30)


@on_secret("RotateSecret")
def rotate_secret(call: Call, request: Request, secret: StoredSecret) -> Result:
    """Sets the schedule if one is given, and unless RotateImmediately is false begins a rotation."""
    token = check_token(request)
    refuse_unbuilt(request)
    if request.get("RotationLambdaARN"):
        raise invalid_parameter(
            "Lambda functions: not available in this version of Mainstay. Leave RotationLambdaARN out: Mainstay itself"
            " rotates managed master passwords and the credentials of users of its DB instances."
        )
    now = call.clock.wall()
    if find_version(secret.versions, token) is not None:
        return named(secret) | {"VersionId": token}
    if not secret.owning_service:
        _check_database_secret(call, secret)
    if is_under_way(call.tx, secret):
        raise invalid_request("A previous rotation isn't complete. That rotation will be reattempted.")
    rules = _rules(request, secret, now)
    secret = msgspec.structs.replace(
        secret, rotation_enabled=True, rotation_rules=rules, next_rotation_at=next_rotation(rules, now), changed_at=now
    )
    call.tx.put(secret)
    keep_timer(call.tx, secret, now)
    if not request.get("RotateImmediately", True):
        return named(secret)
    require_usable(call.tx, secret)
    if not is_ready(call.tx, secret):
        raise invalid_request("The DB instance that the secret belongs to is not available. Try again when it is.")
    means = RotationMeans(vault=call.use(Vault), randomness=call.randomness, engines=call.use(Engines), now=now)
    start_rotation(call.tx, means, secret, token)
    return named(secret) | {"VersionId": token}


def _check_database_secret(call: Call, secret: StoredSecret) -> None:
    """Mainstay must be able to rotate it, and the caller be allowed to use the master's secret that it names."""
    credentials = require_rotatable(call.tx, call.use(Vault), secret)
    if credentials.master_arn:
        master = find_secret(call.tx, call.scope, credentials.master_arn)
        demand(call, {"SecretId": credentials.master_arn}, "GetSecretValue", master)


def _rules(request: Request, secret: StoredSecret, now: float) -> RotationRules:
    given: dict[str, Any] | None = request.get("RotationRules")
    if given is None:
        return secret.rotation_rules if secret.rotation_rules != RotationRules() else DEFAULT_RULES
    rules = RotationRules(
        automatically_after_days=given.get("AutomaticallyAfterDays"),
        duration=given.get("Duration", ""),
        schedule_expression=given.get("ScheduleExpression", ""),
    )
    check_rules(rules, now)
    return rules


@on_secret("CancelRotateSecret")
def cancel_rotate_secret(call: Call, _request: Request, secret: StoredSecret) -> Result:
    """No more rotations by themselves. One under way is given up, but for RDS's own: that is carried to its end."""
    now = call.clock.wall()
    for job in call.tx.jobs(secret.subject):
        if job.program == ROTATE_DATABASE.name:
            call.tx.finish_job(job)
    pending = labelled(secret.versions, PENDING)
    secret = msgspec.structs.replace(secret, rotation_enabled=False, next_rotation_at=None, changed_at=now)
    call.tx.put(secret)
    keep_timer(call.tx, secret, now)
    return named(secret) | ({"VersionId": pending.version_id} if pending is not None else {})
