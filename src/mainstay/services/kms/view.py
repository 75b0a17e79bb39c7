"""Keys, aliases and grants as answers show them. Members without a value are left out, as on AWS."""

from __future__ import annotations

from typing import Any

from mainstay.model.kms import KEY_SPEC, KEY_USAGE, ORIGIN, KeyState, KmsAlias, KmsGrant, KmsKey


def show_key(key: KmsKey) -> dict[str, Any]:
    """KeyMetadata."""
    shown: dict[str, Any] = {
        "AWSAccountId": key.scope.account_id,
        "KeyId": key.key_id,
        "Arn": key.arn,
        "CreationDate": key.created_at,
        "Enabled": key.state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": KEY_USAGE,
        "KeyState": key.state.value,
        "DeletionDate": key.deletion_at,
        "Origin": ORIGIN,
        "KeyManager": key.key_manager,
        "CustomerMasterKeySpec": KEY_SPEC,
        "KeySpec": KEY_SPEC,
        "EncryptionAlgorithms": [KEY_SPEC],
        "MultiRegion": False,
        "CurrentKeyMaterialId": key.current.material_id,
    }
    return {name: value for name, value in shown.items() if value is not None}


def show_alias(alias: KmsAlias) -> dict[str, Any]:
    """An entry of ListAliases."""
    return {
        "AliasName": alias.name,
        "AliasArn": alias.arn,
        "TargetKeyId": alias.target_key_id,
        "CreationDate": alias.created_at,
        "LastUpdatedDate": alias.updated_at,
    }


def show_grant(grant: KmsGrant, key_arn: str) -> dict[str, Any]:
    """An entry of ListGrants."""
    constraints = {
        "EncryptionContextSubset": grant.constraints.subset,
        "EncryptionContextEquals": grant.constraints.equals,
    }
    shown: dict[str, Any] = {
        "KeyId": key_arn,
        "GrantId": grant.grant_id,
        "Name": grant.name or None,
        "CreationDate": grant.created_at,
        "GranteePrincipal": grant.grantee_principal,
        "RetiringPrincipal": grant.retiring_principal or None,
        "IssuingAccount": grant.issuing_account,
        "Operations": list(grant.operations),
        "Constraints": {name: value for name, value in constraints.items() if value is not None} or None,
    }
    return {name: value for name, value in shown.items() if value is not None}
