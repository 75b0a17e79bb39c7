"""Encryption at rest: the KMS keys that protect instances and backups, and the data keys below them.

An instance has one data key for the volumes of all of its nodes, a backup repository one of its own; a record holds
each only as the KMS key wrapped it, with aws:rds:db-id (the DbiResourceId) as encryption context, as on RDS. A data
key is opened on its way to an agent and nowhere else, and never while its KMS key is not enabled.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.kms import KmsKey, key_arn
from mainstay.model.records import Scope
from mainstay.services.kms.use import KeyNotUsable, new_data_key, open_data_key, require_enabled_key
from mainstay.store import Reader

DEFAULT_KEY = "alias/aws/rds"
INSTANCE = "aws:rds:db-id"
REPOSITORY = "mainstay:backup-repository"


def find_key(reader: Reader, arn: str) -> KmsKey | None:
    """The key of an ARN that a record names, of whatever account and region and in whatever state."""
    parts = arn.split(":", 5)
    if len(parts) != 6 or not parts[5].startswith("key/"):
        return None
    scope, key_id = Scope(parts[4], parts[3]), parts[5].removeprefix("key/")
    return reader.get(KmsKey, scope, key_id) if key_arn(scope, key_id) == arn else None


def is_usable(reader: Reader, arn: str) -> bool:
    """Whether what the key protects may be opened now."""
    try:
        require_enabled_key(find_key(reader, arn), arn)
    except KeyNotUsable:
        return False
    return True


def require_key(reader: Reader, arn: str) -> KmsKey:
    """The enabled key that a record names. Raises `ApiError` KMSKeyNotAccessibleFault."""
    try:
        return require_enabled_key(find_key(reader, arn), arn)
    except KeyNotUsable as error:
        raise not_accessible(arn, error.message) from error


def not_accessible(named: str, reason: str) -> ApiError:
    """KMSKeyNotAccessibleFault in RDS's words, and what stands in the way."""
    return ApiError(
        "KMSKeyNotAccessibleFault",
        f"The specified KMS key [{named[:256]}] does not exist, is not enabled or you do not have permissions to access"
        f" it. {reason}",
    )


def instance_context(dbi_resource_id: str) -> dict[str, str]:
    """The encryption context of the data key of an instance's volumes."""
    return {INSTANCE: dbi_resource_id}


def repository_context(dbi_resource_id: str, repository_id: str) -> dict[str, str]:
    """The encryption context of the data key of a backup repository."""
    return {INSTANCE: dbi_resource_id, REPOSITORY: repository_id}


def new_wrapped_key(vault: Vault, randomness: Randomness, key: KmsKey, context: Mapping[str, str]) -> str:
    """A new data key as records keep it; the key must have been found enabled in this transaction."""
    _plaintext, blob = new_data_key(vault, randomness, key, context)
    return base64.b64encode(blob).decode()


def open_wrapped_key(reader: Reader, vault: Vault, wrapped: str, context: Mapping[str, str]) -> str:
    """The data key (hexadecimal). Raises `KeyNotUsable` unless its KMS key is enabled."""
    return open_data_key(reader, vault, base64.b64decode(wrapped), context).hex()
