"""Which KMS key protects what is made: instances, read replicas, copies of snapshots.

Encryption is chosen when an instance is created and never changes; what is made from it is under the same key, or in
another region under one of that region. Source: RDS user guide, "Encrypting Amazon RDS resources".
"""

from __future__ import annotations

from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBSnapshot, InstanceFacts
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.model.kms import AWS, GrantConstraints, KmsKey
from mainstay.services.kms.use import KeyNotUsable, Use, find_named_key, require_use, usable_key
from mainstay.services.operations import Call, Request
from mainstay.workflows.encryption import DEFAULT_KEY, find_key, not_accessible, require_key

SERVICE = "rds"
GRANTED = ("Decrypt", "Encrypt", "GenerateDataKeyWithoutPlaintext", "CreateGrant", "DescribeKey")
"""What RDS lets be granted to it for a resource that is encrypted under a key."""


def key_for_new(call: Call, request: Request) -> KmsKey | None:
    """The key that CreateDBInstance asks for, None for an instance that is not encrypted."""
    named = request.get("KmsKeyId") or ""
    if not request.get("StorageEncrypted"):
        if named:
            raise invalid_combination("KmsKeyId can be specified only if StorageEncrypted is set to true.")
        return None
    return _named_key(call, named)


def key_for_restored(call: Call, facts: InstanceFacts) -> KmsKey | None:
    """The key of what is restored: that of the backup."""
    return _own_key(call, facts.kms_key_id) if facts.storage_encrypted else None


def key_for_replica(call: Call, request: Request, source: DBInstance) -> KmsKey | None:
    """The key of a read replica: its source's, or in another region the one that must be named then."""
    named = request.get("KmsKeyId") or ""
    if source.scope == call.scope:
        key = find_named_key(call.tx, call.scope, named) if named else None
        if named and (key is None or key.arn != source.kms_key_id):
            raise invalid_combination(
                "KmsKeyId can't be specified for a read replica in the region of its source DB instance: the source's"
                " key is used."
            )
        return _own_key(call, source.kms_key_id) if source.storage_encrypted else None
    if not source.storage_encrypted:
        if named:
            raise invalid_combination(
                f"KmsKeyId can't be specified: {source.db_instance_identifier} is not encrypted, and an encrypted read"
                " replica of an unencrypted DB instance cannot be created."
            )
        return None
    if not named:
        raise invalid_combination(
            f"KmsKeyId must be specified: {source.db_instance_identifier} is encrypted, and its read replica in another"
            f" region needs a key of {call.scope.region}."
        )
    require_key(call.tx, source.kms_key_id)
    return _named_key(call, named)


def key_for_copy(call: Call, request: Request, source: DBSnapshot) -> KmsKey | None:
    """The key of a copied snapshot; None for one that is not encrypted."""
    named = request.get("KmsKeyId") or ""
    facts = source.facts
    if facts.storage_encrypted:
        _own_key(call, facts.kms_key_id)  # what is copied must be read
    if named:
        return _named_key(call, named)
    if not facts.storage_encrypted:
        return None
    if source.scope != call.scope:
        kind = "of another account" if source.scope.region == call.scope.region else "of another region"
        raise invalid_combination(
            f"KmsKeyId must be specified when an encrypted snapshot {kind} is copied: a key of {call.scope.region}."
        )
    return _own_key(call, facts.kms_key_id)


def key_for_backup_copy(call: Call, request: Request, source: DBInstance) -> KmsKey | None:
    """The key of automated backups that are replicated to this region; None for those of an unencrypted instance."""
    named = request.get("KmsKeyId") or ""
    if not source.storage_encrypted:
        if named:
            raise invalid_combination(
                f"KmsKeyId can't be specified: {source.db_instance_identifier} is not encrypted, nor are its backups."
            )
        return None
    if not named:
        raise invalid_combination(
            f"KmsKeyId must be specified: {source.db_instance_identifier} is encrypted, and its replicated backups need"
            f" a key of {call.scope.region}."
        )
    require_key(call.tx, source.kms_key_id)
    return _named_key(call, named)


def check_sharing(call: Call, row: DBSnapshot, *, public: bool) -> None:
    """Raises `ApiError` InvalidParameterCombination for an encrypted snapshot that must not be shared so."""
    if not row.facts.storage_encrypted:
        return
    if public:
        raise invalid_combination("An encrypted snapshot cannot be shared with all accounts.")
    key = find_key(call.tx, row.facts.kms_key_id)
    if key is None or key.key_manager == AWS:
        raise invalid_combination(
            f"A snapshot that is encrypted with the account's default key ({DEFAULT_KEY}) cannot be shared. Copy it"
            " with a KmsKeyId of your own, and share the copy."
        )


def _named_key(call: Call, named: str) -> KmsKey:
    """The enabled key that is named, or the account's default one, which the caller may have RDS use."""
    try:
        key = usable_key(
            call.tx, call.scope, named, default_alias=DEFAULT_KEY, vault=call.use(Vault), randomness=call.randomness,
            now=call.clock.wall(),
        )  # fmt: skip
    except KeyNotUsable as error:
        raise not_accessible(named or DEFAULT_KEY, error.message) from error
    _require_permission(call, key)
    return key


def _own_key(call: Call, arn: str) -> KmsKey:
    """The enabled key of something that is encrypted already, which the caller may have RDS use."""
    key = require_key(call.tx, arn)
    _require_permission(call, key)
    return key


def _require_permission(call: Call, key: KmsKey) -> None:
    granted = (GRANTED, GrantConstraints())
    try:
        require_use(
            call, key, Use(operation="DescribeKey", via=SERVICE),
            Use(operation="CreateGrant", via=SERVICE, delegated=granted, context={"kms:GrantIsForAWSResource": "true"}),
        )  # fmt: skip
    except ApiError as error:
        raise not_accessible(key.arn, error.message) from error
