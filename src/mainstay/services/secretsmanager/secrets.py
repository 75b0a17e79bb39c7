"""Creating, updating, describing, deleting and restoring secrets. Source: Secrets Manager API reference."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import CURRENT, StoredSecret
from mainstay.services.iam.authorization import require
from mainstay.services.operations import Call, Demand, Request, Result
from mainstay.services.secretsmanager import limits
from mainstay.services.secretsmanager.checks import (
    check_name,
    check_secret_id,
    check_token,
    check_value,
    invalid_parameter,
    invalid_request,
    refuse_unbuilt,
    with_tags,
)
from mainstay.services.secretsmanager.encryption import require_decryption, require_encryption
from mainstay.services.secretsmanager.lookup import find_secret, not_found
from mainstay.services.secretsmanager.table import demand, on_secret, operations, refuse_owned, request_context
from mainstay.services.secretsmanager.values import (
    delete_secret_now,
    encrypt_again,
    insert_secret,
    new_suffix,
    put_version,
)
from mainstay.services.secretsmanager.view import named, show_secret, stages_of
from mainstay.workflows.engine import new_job
from mainstay.workflows.secret_timers import PURGE, keep_timer


@operations.handles("CreateSecret", demands=lambda _call, _request: ())
def create_secret(call: Call, request: Request) -> Result:
    """Makes a secret, with a first version if a value is given. Repeating the request gives the same secret."""
    now = call.clock.wall()
    name = check_name(request["Name"])
    secret = StoredSecret(
        scope=call.scope, name=name, arn_suffix=new_suffix(call.randomness), created_at=now, changed_at=now
    )
    context = request_context(call, "CreateSecret", request)
    require(call, Demand(action="secretsmanager:CreateSecret", resource=secret.arn, context=context))
    if request.get("Tags"):
        require(call, Demand(action="secretsmanager:TagResource", resource=secret.arn, context=context))
    refuse_unbuilt(request)
    value = check_value(request)
    token = check_token(request)
    secret = msgspec.structs.replace(
        secret,
        description=request.get("Description") or None,
        kms_key_id=request.get("KmsKeyId") or "",
        tags=with_tags({}, request.get("Tags") or ()),
    )
    require_encryption(call, secret, token)
    if (existing := call.tx.get(StoredSecret, call.scope, name)) is not None:
        return _created_before(call, request, existing)
    insert_secret(call.tx, secret)
    if value is None:
        return named(secret)
    secret = put_version(call.tx, call.use(Vault), call.randomness, secret, token, value, stages=(CURRENT,), now=now)
    return named(secret) | {"VersionId": token}


def _created_before(call: Call, request: Request, secret: StoredSecret) -> Result:
    """The secret that the same request made already; any other request for its name is refused."""
    if secret.deleted_at is not None:
        raise invalid_request(
            "You can't create this secret because a secret with this name is already scheduled for deletion."
        )
    exists = ApiError(
        "ResourceExistsException", f"The operation failed because the secret {secret.name} already exists."
    )
    token, value, now = request["ClientRequestToken"], check_value(request), call.clock.wall()
    if value is None or all(one.version_id != token for one in secret.versions):
        raise exists
    # The caller must be allowed to touch what there is, or the answer would tell whether a guessed value is right.
    demand(call, {**request, "SecretId": secret.arn}, "CreateSecret", secret)
    try:
        put_version(call.tx, call.use(Vault), call.randomness, secret, token, value, stages=(CURRENT,), now=now)
    except ApiError:
        raise exists from None
    return named(secret) | {"VersionId": token}


@on_secret("DescribeSecret", deleted_too=True)
def describe_secret(call: Call, _request: Request, secret: StoredSecret) -> Result:
    """Everything but the values."""
    shown: dict[str, Any] = show_secret(call.tx, secret)
    if stages := stages_of(secret):
        shown["VersionIdsToStages"] = stages
    return shown


@on_secret("UpdateSecret")
def update_secret(call: Call, request: Request, secret: StoredSecret) -> Result:
    """Changes description and key; with a value, makes a new version that is AWSCURRENT.

    Another key takes the versions in use over.
    """
    refuse_unbuilt(request)
    value = check_value(request)
    refuse_owned(secret)
    now = call.clock.wall()
    changes: dict[str, Any] = {}
    if "Description" in request:
        changes["description"] = request["Description"] or None
    if "KmsKeyId" in request:
        changes["kms_key_id"] = request["KmsKeyId"]
        for version in secret.versions:
            require_decryption(call, secret, version.version_id)
    secret = msgspec.structs.replace(secret, changed_at=now, **changes)
    call.tx.put(secret)
    if "KmsKeyId" in request:
        require_encryption(call, secret)
        encrypt_again(call.tx, call.use(Vault), call.randomness, secret, now)
    if value is None:
        return named(secret)
    token = check_token(request)
    require_encryption(call, secret, token)
    secret = put_version(call.tx, call.use(Vault), call.randomness, secret, token, value, stages=(CURRENT,), now=now)
    return named(secret) | {"VersionId": token}


@operations.handles("DeleteSecret", demands=lambda _call, _request: ())
def delete_secret(call: Call, request: Request) -> Result:
    """Schedules the deletion, or with ForceDeleteWithoutRecovery carries it out; that one also takes absent secrets."""
    now = call.clock.wall()
    secret = find_secret(call.tx, call.scope, check_secret_id(request["SecretId"]))
    demand(call, request, "DeleteSecret", secret)
    forced, days = bool(request.get("ForceDeleteWithoutRecovery")), request.get("RecoveryWindowInDays")
    if forced and days is not None:
        raise invalid_parameter("You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.")
    least, most = limits.RECOVERY_WINDOW_DAYS
    if days is not None and not least <= days <= most:
        raise invalid_parameter(f"The RecoveryWindowInDays value must be between {least} and {most} days (inclusive).")
    if secret is None and not forced:
        raise not_found()
    if secret is None:
        return _absent(call, request["SecretId"]) | {"DeletionDate": now}
    refuse_owned(secret)
    if forced:
        delete_secret_now(call.tx, secret)
        return named(secret) | {"DeletionDate": now}
    if secret.deleted_at is not None:
        raise invalid_request(
            "You can't perform this operation on the secret because it was already scheduled for deletion."
        )
    purge_at = now + (days or limits.RECOVERY_WINDOW_DEFAULT_DAYS) * limits.DAY_S
    call.tx.put(msgspec.structs.replace(secret, deleted_at=now, purge_at=purge_at))
    job = new_job(PURGE, secret.subject, call.scope, now)
    call.tx.add_job(msgspec.structs.replace(job, due_at=purge_at, deadline_at=purge_at + PURGE.deadline_s))
    return named(secret) | {"DeletionDate": purge_at}


def _absent(call: Call, secret_id: str) -> dict[str, Any]:
    """What forced deletion answers for a secret that is not there."""
    if secret_id.startswith("arn:"):
        return {"ARN": secret_id, "Name": secret_id.rpartition(":")[2]}
    arn = call.scope.arn("secretsmanager", f"secret:{secret_id}-{new_suffix(call.randomness)}")
    return {"ARN": arn, "Name": secret_id}


@on_secret("RestoreSecret", deleted_too=True)
def restore_secret(call: Call, _request: Request, secret: StoredSecret) -> Result:
    """Takes back a scheduled deletion; a secret without one stays as it is."""
    for job in call.tx.jobs(secret.subject):
        if job.program == PURGE.name:
            call.tx.finish_job(job)
    restored = msgspec.structs.replace(secret, deleted_at=None, purge_at=None)
    call.tx.put(restored)
    keep_timer(call.tx, restored, call.clock.wall())
    return named(secret)
