"""Encrypting and decrypting with a key's material: the one place where it is clear, for the time of one call.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce; header, key ARN and encryption context are authenticated.
Material is sealed by the service's vault for its key's ARN and version, so it opens for no other key. Refuses to know
who may: callers have asked.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mainstay.host.randomness import HEX, Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.kms import KeyMaterial, KmsKey
from mainstay.protocol.kms import (
    NONCE_BYTES,
    CiphertextBlob,
    MalformedBlob,
    associated_data,
    decode_blob,
    encode_blob,
)

MATERIAL_BYTES = 32
MATERIAL_ID_CHARACTERS = 64

Context = Mapping[str, str]


def invalid_ciphertext() -> ApiError:
    """`InvalidCiphertextException`: one error for everything that can be wrong with a ciphertext."""
    return ApiError(
        "InvalidCiphertextException",
        "The ciphertext cannot be decrypted: it is damaged or incomplete, was not made here, or was made with another"
        " encryption context. Give the same context as when it was encrypted.",
    )


def new_material(
    vault: Vault, randomness: Randomness, arn: str, version: int, now: float, rotation_type: str = ""
) -> KeyMaterial:
    """Another generation of material for the key of this ARN, sealed."""
    secret = base64.b64encode(randomness.token_bytes(MATERIAL_BYTES)).decode()
    return KeyMaterial(
        version=version,
        material_id=randomness.text(MATERIAL_ID_CHARACTERS, HEX),
        sealed=vault.seal(secret, _seal_context(arn, version)),
        created_at=now,
        rotation_type=rotation_type,
    )


def encrypt(vault: Vault, randomness: Randomness, key: KmsKey, plaintext: bytes, context: Context) -> bytes:
    """The ciphertext blob, made with the key's current material."""
    material = key.current
    nonce = randomness.token_bytes(NONCE_BYTES)
    authenticated = associated_data(key.key_id, material.version, key.arn, context)
    sealed = _cipher(vault, key, material).encrypt(nonce, plaintext, authenticated)
    return encode_blob(CiphertextBlob(key_id=key.key_id, material_version=material.version, nonce=nonce, sealed=sealed))


def read_blob(data: bytes) -> CiphertextBlob:
    """The blob that these bytes are. Raises `ApiError` InvalidCiphertextException."""
    try:
        return decode_blob(data)
    except MalformedBlob as error:
        raise invalid_ciphertext() from error


def decrypt(vault: Vault, key: KmsKey, blob: CiphertextBlob, context: Context) -> tuple[bytes, KeyMaterial]:
    """The plaintext and the material that had encrypted it. Raises `ApiError` InvalidCiphertextException."""
    material = key.material(blob.material_version)
    if material is None or blob.key_id != key.key_id:
        raise invalid_ciphertext()
    authenticated = associated_data(key.key_id, material.version, key.arn, context)
    try:
        return _cipher(vault, key, material).decrypt(blob.nonce, blob.sealed, authenticated), material
    except InvalidTag as error:
        raise invalid_ciphertext() from error


def _cipher(vault: Vault, key: KmsKey, material: KeyMaterial) -> AESGCM:
    return AESGCM(base64.b64decode(vault.unseal(material.sealed, _seal_context(key.arn, material.version))))


def _seal_context(arn: str, version: int) -> str:
    return f"kms-key-material:{arn}:{version}"
