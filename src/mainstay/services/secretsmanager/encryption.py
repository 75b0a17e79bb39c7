"""Every value is encrypted under a KMS key: the secret's own, or the account's aws/secretsmanager.

Each version has a data key of its own, made under the KMS key with SecretARN and SecretVersionId as encryption context,
as on AWS; the store holds its blob beside the value. Values sealed by the vault itself, before there was a KMS, go on
opening. The caller needs kms:GenerateDataKey and kms:Decrypt on a key of the account's own (through Secrets Manager, so
kms:ViaService says so); aws/secretsmanager serves everybody who may use the secret.
Source: Secrets Manager user guide, "Secret encryption and decryption".
"""

from __future__ import annotations

import base64

from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.iam import Role
from mainstay.model.kms import KmsKey
from mainstay.model.secrets_manager import SecretValue, StoredSecret
from mainstay.services.kms.use import (
    KeyNotUsable,
    Use,
    find_named_key,
    key_of_blob,
    new_data_key,
    open_data_key,
    require_enabled_key,
    require_use,
    role_may_use,
    usable_key,
)
from mainstay.services.operations import Call
from mainstay.services.secretsmanager.checks import DEFAULT_KEY
from mainstay.store import Reader, Transaction

SERVICE = "secretsmanager"


def seal_value(
    tx: Transaction, vault: Vault, randomness: Randomness, secret: StoredSecret, version_id: str, text: str, now: float
) -> tuple[str, str]:
    """The value encrypted for this version, and the blob of its data key. Raises `ApiError` EncryptionFailure."""
    try:
        key = usable_key(
            tx, secret.scope, secret.kms_key_id, default_alias=DEFAULT_KEY, vault=vault, randomness=randomness, now=now
        )
    except KeyNotUsable as error:
        raise _encryption_failure(error) from error
    data_key, blob = new_data_key(vault, randomness, key, _context(secret, version_id))
    sealed = vault.under(data_key).seal(text, _seal_context(secret, version_id))
    return sealed, base64.b64encode(blob).decode()


def open_value(reader: Reader, vault: Vault, secret: StoredSecret, record: SecretValue) -> str:
    """The value. Raises `ApiError` DecryptionFailure unless its key is enabled."""
    seal_context = _seal_context(secret, record.version_id)
    if not record.data_key:
        return vault.unseal(record.sealed, seal_context)
    try:
        blob = base64.b64decode(record.data_key)
        data_key = open_data_key(reader, vault, blob, _context(secret, record.version_id))
    except KeyNotUsable as error:
        raise _decryption_failure(error) from error
    return vault.under(data_key).unseal(record.sealed, seal_context)


def require_encryption(call: Call, secret: StoredSecret, version_id: str = "") -> None:
    """Raises `ApiError` unless the caller may encrypt values of the secret and the key that it names is enabled."""
    key = _key_of(call.tx, secret)
    if key is None and _uses_default(secret):
        return  # made by the first value
    if key is not None:
        _require_use(call, key, secret, version_id, "GenerateDataKey", "Decrypt")
    require_usable(call.tx, secret)


def require_usable(reader: Reader, secret: StoredSecret) -> None:
    """Raises `ApiError` EncryptionFailure unless new values of the secret can be encrypted."""
    key = _key_of(reader, secret)
    if key is None and _uses_default(secret):
        return
    try:
        require_enabled_key(key, secret.kms_key_id)
    except KeyNotUsable as error:
        raise _encryption_failure(error) from error


def is_usable(reader: Reader, secret: StoredSecret) -> bool:
    """Whether new values of the secret can be encrypted."""
    try:
        require_usable(reader, secret)
    except ApiError:
        return False
    return True


def require_decryption(call: Call, secret: StoredSecret, version_id: str) -> None:
    """Raises `ApiError` unless the caller may decrypt this version. The key's state is asked when it is opened."""
    key = _key_of_version(call.tx, secret, version_id)
    if key is not None:
        _require_use(call, key, secret, version_id, "Decrypt")


def role_may_decrypt(reader: Reader, role: Role, secret: StoredSecret, version_id: str) -> bool:
    """Whether a session of this role may decrypt this version."""
    key = _key_of_version(reader, secret, version_id)
    use = _use("Decrypt", secret, version_id)
    return key is None or role_may_use(reader, secret.scope, role, key, use)


def shown_key(reader: Reader, secret: StoredSecret) -> str:
    """The ARN of the key that encrypts the secret; of the alias while aws/secretsmanager is not there yet."""
    key = _key_of(reader, secret)
    return secret.scope.arn("kms", DEFAULT_KEY) if key is None else key.arn


def _key_of(reader: Reader, secret: StoredSecret) -> KmsKey | None:
    return find_named_key(reader, secret.scope, secret.kms_key_id or DEFAULT_KEY)


def _key_of_version(reader: Reader, secret: StoredSecret, version_id: str) -> KmsKey | None:
    record = reader.get(SecretValue, secret.scope, f"{secret.resource}:{version_id}")
    if record is None or not record.data_key:
        return None
    try:
        return key_of_blob(reader, base64.b64decode(record.data_key))
    except KeyNotUsable as error:
        raise _decryption_failure(error) from error


def _uses_default(secret: StoredSecret) -> bool:
    return secret.kms_key_id in ("", DEFAULT_KEY, secret.scope.arn("kms", DEFAULT_KEY))


def _require_use(call: Call, key: KmsKey, secret: StoredSecret, version_id: str, *actions: str) -> None:
    try:
        require_use(call, key, *(_use(action, secret, version_id) for action in actions))
    except ApiError as error:
        raise ApiError("AccessDenied", f"Access to KMS is not allowed. {error.message}") from error


def _use(action: str, secret: StoredSecret, version_id: str) -> Use:
    context = _context(secret, version_id) if version_id else {"SecretARN": secret.arn}
    return Use(operation=action, encryption_context=context, via=SERVICE)


def _context(secret: StoredSecret, version_id: str) -> dict[str, str]:
    return {"SecretARN": secret.arn, "SecretVersionId": version_id}


def _seal_context(secret: StoredSecret, version_id: str) -> str:
    return f"secret:{secret.scope}:{secret.resource}:{version_id}"


def _encryption_failure(error: KeyNotUsable) -> ApiError:
    message = "Secrets Manager can't encrypt the protected secret text using the provided KMS key."
    return ApiError("EncryptionFailure", f"{message} {error.message}")


def _decryption_failure(error: KeyNotUsable) -> ApiError:
    message = "Secrets Manager can't decrypt the protected secret text using the provided KMS key."
    return ApiError("DecryptionFailure", f"{message} {error.message}")
