"""ManageMasterUserPassword: the master password in a secret that RDS makes, rotates and deletes.

Source: RDS user guide, "Password management with Amazon RDS and AWS Secrets Manager".
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from mainstay.decide.secret_schedules import next_rotation
from mainstay.engines.base import EngineRules
from mainstay.engines.registry import Engines
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.model.secrets_manager import CURRENT, RotationRules, StoredSecret
from mainstay.services.iam.authorization import require
from mainstay.services.kms.use import find_named_key
from mainstay.services.operations import Call, Demand, Request
from mainstay.services.secretsmanager.checks import DEFAULT_KEY
from mainstay.services.secretsmanager.encryption import is_usable, require_encryption, shown_key
from mainstay.services.secretsmanager.lookup import tags_of
from mainstay.services.secretsmanager.values import delete_secret_now, insert_secret, new_suffix, put_version
from mainstay.store import Reader
from mainstay.workflows.rotate_master_user_password import (
    ROTATE_MASTER,
    RotationMeans,
    is_rotating,
    master_secret_of,
    master_value,
    new_master_password,
    start_master_rotation,
)
from mainstay.workflows.secret_rotation import new_version_id
from mainstay.workflows.secret_timers import keep_timer

OWNING_SERVICE = "rds"
ROTATION = RotationRules(automatically_after_days=7)
UUID_BYTES = 16
RUNS = frozenset({"available", "storage-optimization"})


def with_managed_password(call: Call, rules: EngineRules, request: Request) -> Request:
    """The CreateDBInstance request with a new password in it if RDS is to manage it, else as it is.

    Raises `ApiError` InvalidParameterCombination for a password beside ManageMasterUserPassword.
    """
    if not request.get("ManageMasterUserPassword"):
        if request.get("MasterUserSecretKmsKeyId"):
            raise invalid_combination("MasterUserSecretKmsKeyId is valid only with ManageMasterUserPassword.")
        return request
    if request.get("MasterUserPassword"):
        raise invalid_combination(
            "You can't specify MasterUserPassword if ManageMasterUserPassword is set: RDS makes the password."
        )
    return {**request, "MasterUserPassword": new_master_password(call.randomness, rules)}


def keep_managed_password(call: Call, instance: DBInstance, request: Request) -> None:
    """Puts the password of an instance that is being created into a secret, if the request wants RDS to manage it.

    Raises `ApiError` KMSKeyNotAccessibleFault.
    """
    if not request.get("ManageMasterUserPassword"):
        return
    secret = _new_secret(call, instance, request.get("MasterUserSecretKmsKeyId") or "")
    value = master_value(instance.master_username, request["MasterUserPassword"])
    version_id = new_version_id(call.randomness)
    now = call.clock.wall()
    secret = put_version(
        call.tx, call.use(Vault), call.randomness, secret, version_id, value, stages=(CURRENT,), now=now
    )
    keep_timer(call.tx, secret, now)


def _new_secret(call: Call, instance: DBInstance, kms_key_id: str) -> StoredSecret:
    now = call.clock.wall()
    secret = StoredSecret(
        scope=call.scope,
        name=f"rds!db-{UUID(bytes=call.randomness.token_bytes(UUID_BYTES), version=4)}",
        arn_suffix=new_suffix(call.randomness),
        description=f"The secret associated with the primary RDS DB instance: {instance.arn}",
        kms_key_id=kms_key_id,
        created_at=now,
        changed_at=now,
        rotation_enabled=True,
        rotation_rules=ROTATION,
        next_rotation_at=next_rotation(ROTATION, now),
        owning_service=OWNING_SERVICE,
        owner=f"db:{instance.dbi_resource_id}",
    )
    tags = {f"aws:ResourceTag/{key}": value for key, value in tags_of(call.tx, secret).items()}
    for action in ("secretsmanager:CreateSecret", "secretsmanager:TagResource"):
        require(call, Demand(action=action, resource=secret.arn, context={"secretsmanager:Name": secret.name, **tags}))
    _require_key(call, secret)
    insert_secret(call.tx, secret)
    return secret


def _require_key(call: Call, secret: StoredSecret) -> None:
    """The key is there and enabled, and the caller may use it through Secrets Manager."""
    try:
        require_encryption(call, secret)
    except ApiError as error:
        raise ApiError(
            "KMSKeyNotAccessibleFault",
            f"Specified KMS key [{secret.kms_key_id or DEFAULT_KEY}] does not exist, is not enabled or you do not have"
            f" permissions to access it. {error.message}",
        ) from error


def check_master_changes(call: Call, instance: DBInstance, request: Request, status: str) -> None:
    """Raises the `ApiError` that ModifyDBInstance answers for members about the master password that do not fit."""
    secret = master_secret_of(call.tx, instance)
    managed = secret is not None
    wanted = request.get("ManageMasterUserPassword", managed)
    password = request.get("MasterUserPassword")
    if wanted and not managed and instance.source_dbi_resource_id:
        raise invalid_combination("ManageMasterUserPassword is not supported for read replicas.")
    if wanted and password:
        raise invalid_combination(
            "You can't specify MasterUserPassword while RDS manages the master user password in Secrets Manager. Turn"
            " that off in the same request with ManageMasterUserPassword set to false."
        )
    if managed and not wanted and not password:
        raise invalid_combination(
            "You must specify MasterUserPassword to turn off the management of the master user password in Secrets"
            " Manager."
        )
    if request.get("MasterUserSecretKmsKeyId") and not wanted:
        raise invalid_combination("MasterUserSecretKmsKeyId is valid only with ManageMasterUserPassword.")
    if secret is not None and not _is_key_of(call.tx, secret, request.get("MasterUserSecretKmsKeyId")):
        raise invalid_combination(
            "You can't change the KMS key of the master user secret while RDS manages the master user password."
        )
    if request.get("RotateMasterUserPassword"):
        if not (managed and wanted):
            raise invalid_combination(
                "RotateMasterUserPassword is valid only if RDS manages the master user password in Secrets Manager."
            )
        if not request.get("ApplyImmediately"):
            raise invalid_combination(
                "You must apply the change immediately (ApplyImmediately) when rotating the master user password."
            )
    if managed and is_rotating(call.tx, instance) and request.get("RotateMasterUserPassword"):
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"The master user password of {instance.db_instance_identifier} is being rotated. Try again in a moment.",
        )
    if (request.get("RotateMasterUserPassword") or (wanted and not managed)) and status not in RUNS:
        raise ApiError(
            "InvalidDBInstanceStateFault", f"Instance {instance.db_instance_identifier} is not in available state."
        )


def change_master_secret(call: Call, instance: DBInstance, request: Request) -> DBInstance:
    """Turns the management on or off, or begins a rotation, as checked before; returns the stored instance."""
    secret = master_secret_of(call.tx, instance)
    wanted = request.get("ManageMasterUserPassword", secret is not None)
    if secret is not None and not wanted:
        for job in call.tx.jobs(f"db:{instance.dbi_resource_id}"):
            if job.program == ROTATE_MASTER.name:
                call.tx.finish_job(job)
        delete_secret_now(call.tx, secret)
        return instance
    rotate = bool(request.get("RotateMasterUserPassword"))
    if not wanted or (secret is not None and not rotate):
        return instance
    if secret is None:
        secret = _new_secret(call, instance, request.get("MasterUserSecretKmsKeyId") or "")
        keep_timer(call.tx, secret, call.clock.wall())
    else:
        _require_key(call, secret)
        require(
            call,
            Demand(action="secretsmanager:RotateSecret", resource=secret.arn),
            resource_policy=secret.resource_policy,
        )
    means = RotationMeans(
        vault=call.use(Vault), randomness=call.randomness, engines=call.use(Engines), now=call.clock.wall()
    )
    # A change that goes through the instance's own workflow keeps its status word.
    return start_master_rotation(
        call.tx, means, secret, instance, new_version_id(call.randomness), shown=not instance.change
    )


def show_master_secret(reader: Reader, instance: DBInstance) -> dict[str, Any]:
    """The member MasterUserSecret, nothing if the user keeps the password."""
    secret = master_secret_of(reader, instance)
    if secret is None:
        return {}
    shown = {
        "SecretArn": secret.arn,
        "SecretStatus": _status(reader, instance, secret),
        "KmsKeyId": shown_key(reader, secret),
    }
    return {"MasterUserSecret": shown}


def _status(reader: Reader, instance: DBInstance, secret: StoredSecret) -> str:
    if secret.rotation_failure or not is_usable(reader, secret):
        return "impaired"
    created = instance.instance_create_time is not None
    if not created or not any(CURRENT in version.stages for version in secret.versions):
        return "creating"
    return "rotating" if is_rotating(reader, instance) else "active"


def _is_key_of(reader: Reader, secret: StoredSecret, named: str | None) -> bool:
    """Whether the key that a request names is the secret's already; naming none asks for no change."""
    key = find_named_key(reader, secret.scope, named) if named else None
    return not named or (key is not None and key.arn == shown_key(reader, secret))
