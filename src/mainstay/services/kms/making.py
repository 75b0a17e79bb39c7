"""Making keys, whoever asks: users through the API, services for themselves.

An AWS managed key comes into being when it is first needed. Its policy lets the account's users use it through its
service alone, and lets nobody change it: that is all that protects it, as on AWS.
"""

from __future__ import annotations

import json
from uuid import UUID

import msgspec

from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.kms import AWS, KmsAlias, KmsKey, key_arn
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.services.kms import limits
from mainstay.services.kms.ciphertexts import new_material
from mainstay.store import Reader, Transaction
from mainstay.workflows.key_timers import keep_rotation_timer

KEY_ID_BYTES = 16
MANAGED = {
    "alias/aws/rds": ("rds", "Default key that protects my RDS database volumes when no other key is defined"),
    "alias/aws/secretsmanager": (
        "secretsmanager",
        "Default key that protects my Secrets Manager data when no other key is defined",
    ),
}
"""Alias -> service and description of the AWS managed keys that our services use."""


def default_policy(account_id: str) -> str:
    """What a key gets without a policy: the account's identity policies decide."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": Scope(account_id, GLOBAL_REGION).arn("iam", "root")},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}, indent=2)


def new_key(vault: Vault, randomness: Randomness, scope: Scope, policy: str, now: float) -> KmsKey:
    """A key with its first material, not recorded yet."""
    key_id = str(UUID(bytes=randomness.token_bytes(KEY_ID_BYTES), version=4))
    material = new_material(vault, randomness, key_arn(scope, key_id), 1, now)
    return KmsKey(scope=scope, key_id=key_id, created_at=now, policy=policy, materials=(material,))


def insert_key(tx: Transaction, key: KmsKey) -> None:
    """Records a new key. Raises `ApiError` LimitExceededException."""
    if tx.count(KmsKey, key.scope) >= limits.KEYS_PER_REGION:
        raise ApiError(
            "LimitExceededException", f"An account can have at most {limits.KEYS_PER_REGION} KMS keys in a region."
        )
    tx.insert(key)


def managed_key(tx: Transaction, vault: Vault, randomness: Randomness, scope: Scope, alias: str, now: float) -> KmsKey:
    """The AWS managed key of this alias, one of `MANAGED`, made if it is not there. It is rotated every year."""
    if (present := managed_key_if_there(tx, scope, alias)) is not None:
        return present
    service, description = MANAGED[alias]
    days = limits.ROTATION_PERIOD_DEFAULT_DAYS
    key = msgspec.structs.replace(
        new_key(vault, randomness, scope, _managed_policy(scope, service), now),
        description=description,
        key_manager=AWS,
        rotation_enabled=True,
        rotation_period_days=days,
        next_rotation_at=now + days * limits.DAY_S,
    )
    insert_key(tx, key)
    tx.insert(KmsAlias(scope=scope, name=alias, target_key_id=key.key_id, created_at=now, updated_at=now))
    keep_rotation_timer(tx, key, now)
    return key


def managed_key_if_there(reader: Reader, scope: Scope, alias: str) -> KmsKey | None:
    """The AWS managed key of this alias, None before its first use."""
    present = reader.get(KmsAlias, scope, alias)
    return None if present is None else reader.get(KmsKey, scope, present.target_key_id)


def _managed_policy(scope: Scope, service: str) -> str:
    through = {
        "Sid": f"Allow access through {service} for all principals in the account that are authorized to use it",
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": [
            "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant",
            "kms:ListGrants", "kms:DescribeKey",
        ],
        "Resource": "*",
        "Condition": {
            "StringEquals": {
                "kms:CallerAccount": scope.account_id,
                "kms:ViaService": f"{service}.{scope.region}.amazonaws.com",
            }
        },
    }  # fmt: skip
    direct = {
        "Sid": "Allow direct access to key metadata to the account",
        "Effect": "Allow",
        "Principal": {"AWS": Scope(scope.account_id, GLOBAL_REGION).arn("iam", "root")},
        "Action": ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"],
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": f"auto-{service}-1", "Statement": [through, direct]}, indent=2)
