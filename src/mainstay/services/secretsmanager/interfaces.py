"""What other services may ask about secrets, without a caller: they decide by themselves on whose behalf they ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mainstay.decide.policy import AccessRequest, PolicyKind, Principal, evaluate, parse_policy
from mainstay.decide.secret_versions import labelled
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.iam import Role
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.model.secrets_manager import CURRENT, StoredSecret
from mainstay.services.iam.authorization import policies_of_entity
from mainstay.services.secretsmanager.encryption import role_may_decrypt
from mainstay.services.secretsmanager.lookup import find_secret, not_found, require_secret, tags_of
from mainstay.services.secretsmanager.values import current_version, read_value
from mainstay.store import Reader

__all__ = [
    "current_value", "current_version_id", "find_secret", "may_decrypt", "may_read", "require_readable",
    "require_secret",
]  # fmt: skip


def current_value(reader: Reader, vault: Vault, scope: Scope, secret_arn: str) -> str:
    """The text of the secret's AWSCURRENT version.

    Raises `ApiError` ResourceNotFoundException if the secret or its value does not exist, is scheduled for deletion or
    is binary.
    """
    secret = _living(reader, scope, secret_arn)
    value = read_value(reader, vault, secret, current_version(secret).version_id)
    if value.binary:
        raise ApiError("ResourceNotFoundException", f"The secret {secret_arn} has no SecretString.")
    return value.text


def current_version_id(reader: Reader, scope: Scope, secret_arn: str) -> str:
    """Which version is AWSCURRENT: it changes exactly when `current_value` may change. Raises as `current_value`."""
    return current_version(_living(reader, scope, secret_arn)).version_id


def may_read(
    reader: Reader,
    scope: Scope,
    role_arn: str,
    secret_arn: str,
    request_context: Mapping[str, str | Sequence[str]] | None = None,
) -> bool:
    """Whether a session of this role may call GetSecretValue for the secret, by the role's and the secret's policies.

    `may_decrypt` asks about its key. False if either does not exist.
    `request_context` are further condition keys ("aws:CurrentTime" …).
    """
    secret = find_secret(reader, scope, secret_arn)
    role = _role(reader, scope, role_arn)
    if secret is None or role is None:
        return False
    context: dict[str, str | Sequence[str]] = {
        "aws:PrincipalArn": role.arn,
        "aws:PrincipalAccount": scope.account_id,
        "aws:PrincipalType": "AssumedRole",
        "aws:RequestedRegion": scope.region,
        "aws:SecureTransport": "true",
        "secretsmanager:SecretId": secret.arn,
        "secretsmanager:VersionStage": CURRENT,
        **(request_context or {}),
    }
    for key, value in tags_of(reader, secret).items():
        context[f"aws:ResourceTag/{key}"] = value
        context[f"secretsmanager:ResourceTag/{key}"] = value
    session = f"arn:aws:sts::{scope.account_id}:assumed-role/{role.name}/mainstay"
    principal = Principal(kind="role", arn=session, account_id=scope.account_id, role_arn=role.arn)
    question = AccessRequest.of("secretsmanager:GetSecretValue", secret.arn, context, principal)
    policy = parse_policy(secret.resource_policy, PolicyKind.RESOURCE) if secret.resource_policy else None
    return evaluate(question, policies_of_entity(reader, role), policy).allowed


def may_decrypt(reader: Reader, scope: Scope, role_arn: str, secret_arn: str) -> bool:
    """Whether a session of this role may decrypt the secret's current value, by the role's and the key's policies.

    False if role or secret does not exist.
    """
    secret = find_secret(reader, scope, secret_arn)
    role = _role(reader, scope, role_arn)
    if secret is None or role is None:
        return False
    current = labelled(secret.versions, CURRENT)
    return current is None or role_may_decrypt(reader, role, secret, current.version_id)


def _role(reader: Reader, scope: Scope, role_arn: str) -> Role | None:
    role = reader.get(Role, Scope(scope.account_id, GLOBAL_REGION), role_arn.rpartition("/")[2])
    return role if role is not None and role.arn == role_arn else None


def require_readable(reader: Reader, scope: Scope, role_arn: str, secret_arn: str) -> None:
    """Raises `ApiError` AccessDenied unless `may_read` and `may_decrypt`, in AWS's words."""
    if not (may_read(reader, scope, role_arn, secret_arn) and may_decrypt(reader, scope, role_arn, secret_arn)):
        raise ApiError(
            "AccessDenied",
            f"User: {role_arn} is not authorized to perform: secretsmanager:GetSecretValue on resource: {secret_arn}",
        )


def _living(reader: Reader, scope: Scope, secret_arn: str) -> StoredSecret:
    secret = require_secret(reader, scope, secret_arn)
    if secret.deleted_at is not None:
        raise not_found()
    return secret
