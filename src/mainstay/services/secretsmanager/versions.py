"""Reading and writing versions, and moving their staging labels. Source: Secrets Manager API reference."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.secret_versions import find_version, labelled, moved_stage
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import CURRENT, SecretVersion, StoredSecret
from mainstay.services.operations import Call, Request, Result
from mainstay.services.secretsmanager.checks import check_token, check_value, invalid_request
from mainstay.services.secretsmanager.encryption import require_decryption, require_encryption
from mainstay.services.secretsmanager.limits import DAY_S
from mainstay.services.secretsmanager.pages import page
from mainstay.services.secretsmanager.table import on_secret, refuse_owned
from mainstay.services.secretsmanager.values import binary_of, put_version, read_value
from mainstay.services.secretsmanager.view import named


@on_secret("GetSecretValue")
def get_secret_value(call: Call, request: Request, secret: StoredSecret) -> Result:
    """The value of the version asked for, of AWSCURRENT by default."""
    version = chosen_version(secret, request.get("VersionId"), request.get("VersionStage"))
    return opened(call, secret, version)


def chosen_version(secret: StoredSecret, version_id: str | None, stage: str | None) -> SecretVersion:
    """The version by id, label or both, which must agree. Raises `ApiError`."""
    if version_id is not None:
        version = find_version(secret.versions, version_id)
        named_by = f"VersionId: {version_id}"
    else:
        stage = stage or CURRENT
        version = labelled(secret.versions, stage)
        named_by = f"staging label: {stage}"
    if version is None:
        raise ApiError(
            "ResourceNotFoundException", f"Secrets Manager can't find the specified secret value for {named_by}"
        )
    if stage is not None and stage not in version.stages:
        raise invalid_request("You provided a VersionStage that is not associated to the provided VersionId.")
    return version


def opened(call: Call, secret: StoredSecret, version: SecretVersion) -> dict[str, Any]:
    """The answer with the value; notes the day on which it was read."""
    require_decryption(call, secret, version.version_id)
    value = read_value(call.tx, call.use(Vault), secret, version.version_id)
    today = call.clock.wall() // DAY_S * DAY_S
    if version.accessed_on != today or secret.accessed_on != today:
        versions = tuple(
            msgspec.structs.replace(one, accessed_on=today) if one.version_id == version.version_id else one
            for one in secret.versions
        )
        call.tx.put(msgspec.structs.replace(secret, versions=versions, accessed_on=today))
    content = {"SecretBinary": binary_of(value)} if value.binary else {"SecretString": value.text}
    shown = named(secret) | {"VersionId": version.version_id, "CreatedDate": version.created_at} | content
    return shown | ({"VersionStages": list(version.stages)} if version.stages else {})


@on_secret("PutSecretValue")
def put_secret_value(call: Call, request: Request, secret: StoredSecret) -> Result:
    """A new version; with no labels given it is AWSCURRENT, and the first version of a secret always is."""
    token = check_token(request)
    value = check_value(request)
    if value is None:
        raise invalid_request("You must provide either SecretString or SecretBinary.")
    refuse_owned(secret)
    stages = list(dict.fromkeys(request.get("VersionStages") or (CURRENT,)))
    if not secret.versions and CURRENT not in stages:
        stages.append(CURRENT)
    require_encryption(call, secret, token)
    now = call.clock.wall()
    changed = put_version(call.tx, call.use(Vault), call.randomness, secret, token, value, stages=stages, now=now)
    version = find_version(changed.versions, token)
    kept = list(version.stages) if version is not None else []
    return named(changed) | {"VersionId": token} | ({"VersionStages": kept} if kept else {})


@on_secret("UpdateSecretVersionStage")
def update_secret_version_stage(call: Call, request: Request, secret: StoredSecret) -> Result:
    """Moves, adds or removes one label."""
    refuse_owned(secret)
    versions = moved_stage(
        secret.versions, request["VersionStage"], request.get("MoveToVersionId"), request.get("RemoveFromVersionId")
    )
    if versions != secret.versions:
        call.tx.put(msgspec.structs.replace(secret, versions=versions, changed_at=call.clock.wall()))
    return named(secret)


@on_secret("ListSecretVersionIds", deleted_too=True)
def list_secret_version_ids(_call: Call, request: Request, secret: StoredSecret) -> Result:
    """Versions, newest first; those without labels only with IncludeDeprecated."""
    wanted = [one for one in secret.versions if one.stages or request.get("IncludeDeprecated")]
    ordered = sorted(wanted, key=lambda one: (-one.created_at, one.version_id))
    shown, more = page(request, ordered, lambda one: f"{-one.created_at!r} {one.version_id}")
    return named(secret) | {"Versions": [_show(secret, one) for one in shown]} | more


def _show(secret: StoredSecret, version: SecretVersion) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "VersionId": version.version_id,
        "CreatedDate": version.created_at,
        "VersionStages": list(version.stages) or None,
        "LastAccessedDate": version.accessed_on,
        "KmsKeyIds": ["DefaultEncryptionKey"] if not secret.kms_key_id else [secret.kms_key_id],
    }
    return {name: value for name, value in shown.items() if value is not None}
