"""KMS for the other services of Mainstay: which key, may it be used, and data keys under it.

A service that encrypts something of a user's goes this way:

1. when the user asks (there is a `Call`): `usable_key` finds the key that was named, or the service's own AWS managed
   key; `require_use` asks whether the caller may have the service use it (kms:ViaService);
2. `new_data_key` gives a data key, clear and as a blob. The service keeps the blob beside what it encrypts, and the
   clear key nowhere;
3. whenever the clear key is needed, `open_data_key`: it raises `KeyNotUsable` from the moment on that the key is
   disabled, pending deletion or deleted. `changes` tells when that happens.

`KeyNotUsable` is the one error of this module. Each service turns it into its own words: RDS into
KMSKeyNotAccessibleFault, Secrets Manager into EncryptionFailure and DecryptionFailure.
"""

from __future__ import annotations

from collections.abc import Mapping

from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError, MainstayError
from mainstay.model.kms import KeyState, KmsKey
from mainstay.model.records import Scope
from mainstay.protocol.kms import MalformedBlob, decode_blob
from mainstay.services.kms.authorization import Use, authorize_use, role_may_use
from mainstay.services.kms.ciphertexts import decrypt, encrypt
from mainstay.services.kms.lookup import find_key, read_name
from mainstay.services.kms.making import MANAGED, managed_key, managed_key_if_there
from mainstay.services.operations import Call
from mainstay.store import Reader, Transaction

__all__ = [
    "DATA_KEY_BYTES", "KeyNotUsable", "Use", "find_named_key", "key_of_blob", "new_data_key", "open_data_key",
    "require_enabled_key", "require_use", "role_may_use", "usable_key",
]  # fmt: skip

DATA_KEY_BYTES = 32


class KeyNotUsable(MainstayError):
    """The key is absent, disabled or pending deletion, or does not open this blob. The message says which."""


def usable_key(
    tx: Transaction,
    scope: Scope,
    named: str,
    *,
    default_alias: str,
    vault: Vault,
    randomness: Randomness,
    now: float,
) -> KmsKey:
    """The enabled key of this id, ARN, alias name or alias ARN; of `default_alias` if none is named.

    An AWS managed key is made if it is not there yet. Raises `KeyNotUsable`.
    """
    name = _name(scope, named or default_alias)
    if name in MANAGED:
        return require_enabled_key(managed_key(tx, vault, randomness, scope, name, now), name)
    return require_enabled_key(find_key(tx, scope, name), name)


def find_named_key(reader: Reader, scope: Scope, named: str) -> KmsKey | None:
    """The key that is named, in whatever state; None if it is not there (an AWS managed one: not yet)."""
    try:
        name = _name(scope, named)
    except KeyNotUsable:
        return None
    return managed_key_if_there(reader, scope, name) if name in MANAGED else find_key(reader, scope, name)


def require_enabled_key(key: KmsKey | None, name: str = "") -> KmsKey:
    """The key again. Raises `KeyNotUsable` unless it is there and enabled."""
    if key is None:
        raise KeyNotUsable(f"The KMS key {name} does not exist.")
    if key.state is KeyState.PENDING_DELETION:
        raise KeyNotUsable(f"The KMS key {key.arn} is pending deletion. Cancel the deletion and enable the key.")
    if key.state is not KeyState.ENABLED:
        raise KeyNotUsable(f"The KMS key {key.arn} is disabled. Enable it.")
    return key


def require_use(call: Call, key: KmsKey, *uses: Use) -> None:
    """Raises `ApiError` AccessDenied unless the caller may have a service do all of this; `Use.via` names the service.

    A service that lets a grant be made for its own resource says so in `Use.context`: kms:GrantIsForAWSResource.
    """
    for use in uses:
        authorize_use(call, key, use)


def new_data_key(vault: Vault, randomness: Randomness, key: KmsKey, context: Mapping[str, str]) -> tuple[bytes, bytes]:
    """A new data key of 256 bits, and the blob that `open_data_key` opens with the same context.

    The key must have been found usable in this transaction.
    """
    plaintext = randomness.token_bytes(DATA_KEY_BYTES)
    return plaintext, encrypt(vault, randomness, key, plaintext, context)


def open_data_key(reader: Reader, vault: Vault, blob: bytes, context: Mapping[str, str]) -> bytes:
    """The data key in a blob. Raises `KeyNotUsable` if its key is not usable now, or the context is another one."""
    key = require_enabled_key(key_of_blob(reader, blob), "of the encrypted data key")
    try:
        return decrypt(vault, key, decode_blob(blob), context)[0]
    except ApiError as error:
        raise KeyNotUsable(f"The KMS key {key.arn} does not open the encrypted data key.") from error


def key_of_blob(reader: Reader, blob: bytes) -> KmsKey | None:
    """The key that a blob names, of whatever region and in whatever state; None if it was deleted."""
    try:
        key_id = decode_blob(blob).key_id
    except MalformedBlob as error:
        raise KeyNotUsable("The encrypted data key is damaged.") from error
    found = reader.find(KmsKey, None, "key-id", key_id)
    return found[0] if found else None


def _name(scope: Scope, named: str) -> str:
    try:
        return read_name(scope, named)
    except ApiError as error:
        raise KeyNotUsable(f"The KMS key {named[:256]} does not exist: {error.message}") from error
