"""Encrypt, Decrypt, ReEncrypt and data keys. Source: KMS API reference.

Always in this order: may the caller use the key, is the key enabled, does the cryptography succeed; so an answer tells
nothing of a key to somebody who may not use it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.kms import KEY_SPEC, KeyMaterial, KmsKey
from mainstay.services.kms.authorization import Context, Use, authorize_use
from mainstay.services.kms.checks import (
    check_algorithm,
    check_context,
    finish_dry_run,
    refuse_recipient,
    unsupported,
    validation,
)
from mainstay.services.kms.ciphertexts import decrypt, encrypt, read_blob
from mainstay.services.kms.lookup import ALIAS, find_key, read_name, require_enabled
from mainstay.services.kms.table import check_grant_tokens, nothing, operations, permitted_key
from mainstay.services.operations import Call, Request, Result

SPEC_BYTES = {"AES_256": 32, "AES_128": 16}


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be decrypted: `named` is the key that the request names, None without one."""

    operation: str
    data: bytes
    context: dict[str, str]
    named: str | None


@operations.handles("Encrypt", demands=nothing)
def encrypt_plaintext(call: Call, request: Request) -> Result:
    """A ciphertext of up to 4096 bytes, which names its key."""
    check_algorithm(request.get("EncryptionAlgorithm"))
    context = check_context(request.get("EncryptionContext"))
    key = _usable(call, request, request["KeyId"], Use(operation="Encrypt", encryption_context=context))
    finish_dry_run(request)
    blob = encrypt(call.use(Vault), call.randomness, key, request["Plaintext"], context)
    return {"CiphertextBlob": blob, "KeyId": key.arn, "EncryptionAlgorithm": KEY_SPEC}


@operations.handles("Decrypt", demands=nothing)
def decrypt_ciphertext(call: Call, request: Request) -> Result:
    """The plaintext again, with the context that it was encrypted with."""
    refuse_recipient(request)
    check_algorithm(request.get("EncryptionAlgorithm"))
    source = Source(
        operation="Decrypt",
        data=_ciphertext(request),
        context=check_context(request.get("EncryptionContext")),
        named=request.get("KeyId"),
    )
    key, plaintext, material = _opened(call, request, source)
    finish_dry_run(request)
    return {
        "KeyId": key.arn,
        "Plaintext": plaintext,
        "EncryptionAlgorithm": KEY_SPEC,
        "KeyMaterialId": material.material_id,
    }


@operations.handles("ReEncrypt", demands=nothing)
def re_encrypt(call: Call, request: Request) -> Result:
    """The same plaintext under another key or context; it does not leave the service."""
    check_algorithm(request.get("SourceEncryptionAlgorithm"), request.get("DestinationEncryptionAlgorithm"))
    context = check_context(request.get("DestinationEncryptionContext"))
    source = Source(
        operation="ReEncryptFrom",
        data=_ciphertext(request),
        context=check_context(request.get("SourceEncryptionContext")),
        named=request.get("SourceKeyId"),
    )
    origin, plaintext, material = _opened(call, request, source, destination=request["DestinationKeyId"])
    use = Use(
        operation="ReEncryptTo",
        encryption_context=context,
        context=_same_key(call, origin.key_id, request["DestinationKeyId"]),
    )
    key = _usable(call, request, request["DestinationKeyId"], use)
    finish_dry_run(request)
    return {
        "CiphertextBlob": encrypt(call.use(Vault), call.randomness, key, plaintext, context),
        "SourceKeyId": origin.arn,
        "KeyId": key.arn,
        "SourceEncryptionAlgorithm": KEY_SPEC,
        "DestinationEncryptionAlgorithm": KEY_SPEC,
        "SourceKeyMaterialId": material.material_id,
        "DestinationKeyMaterialId": key.current.material_id,
    }


@operations.handles("GenerateDataKey", demands=nothing)
def generate_data_key(call: Call, request: Request) -> Result:
    """Random bytes, clear and encrypted."""
    refuse_recipient(request)
    plaintext, answer = _data_key(call, request, "GenerateDataKey")
    return {**answer, "Plaintext": plaintext}


@operations.handles("GenerateDataKeyWithoutPlaintext", demands=nothing)
def generate_data_key_without_plaintext(call: Call, request: Request) -> Result:
    """Random bytes, encrypted only."""
    return _data_key(call, request, "GenerateDataKeyWithoutPlaintext")[1]


@operations.handles("GenerateRandom")
def generate_random(call: Call, request: Request) -> Result:
    """Random bytes of the kernel's generator."""
    refuse_recipient(request)
    if request.get("CustomKeyStoreId"):
        raise unsupported(
            "Custom key stores are not available in this version of Mainstay. Leave CustomKeyStoreId out."
        )
    if "NumberOfBytes" not in request:
        raise validation("Please specify the number of bytes: NumberOfBytes.")
    return {"Plaintext": call.randomness.token_bytes(request["NumberOfBytes"])}


def _data_key(call: Call, request: Request, operation: str) -> tuple[bytes, dict[str, Any]]:
    spec, count = request.get("KeySpec"), request.get("NumberOfBytes")
    if (spec is None) == (count is None):
        raise validation("Please specify either number of bytes or key spec.")
    size = SPEC_BYTES[spec] if spec is not None else int(count or 0)
    context = check_context(request.get("EncryptionContext"))
    key = _usable(call, request, request["KeyId"], Use(operation=operation, encryption_context=context))
    finish_dry_run(request)
    plaintext = call.randomness.token_bytes(size)
    blob = encrypt(call.use(Vault), call.randomness, key, plaintext, context)
    return plaintext, {"CiphertextBlob": blob, "KeyId": key.arn, "KeyMaterialId": key.current.material_id}


def _usable(call: Call, request: Request, named: str, use: Use) -> KmsKey:
    key = permitted_key(call, request, named, use)
    require_enabled(key)
    return key


def _ciphertext(request: Request) -> bytes:
    if request.get("DryRunModifiers"):
        raise validation("DryRunModifiers is not available in this version of Mainstay. Give the CiphertextBlob.")
    if "CiphertextBlob" not in request:
        raise validation("The request must contain the parameter CiphertextBlob.")
    data: bytes = request["CiphertextBlob"]
    return data


def _opened(call: Call, request: Request, source: Source, destination: str = "") -> tuple[KmsKey, bytes, KeyMaterial]:
    """Key, plaintext and material of a ciphertext, if the caller may decrypt with that key."""
    check_grant_tokens(call, request)
    blob = read_blob(source.data)
    use = Use(operation=source.operation, encryption_context=source.context)
    if destination:
        use = msgspec.structs.replace(use, context=_same_key(call, blob.key_id, destination))
    if source.named is not None:
        if permitted_key(call, request, source.named, use).key_id != blob.key_id:
            raise ApiError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        name = read_name(call.scope, source.named)
        use = msgspec.structs.replace(use, alias=name if name.startswith(ALIAS) else "")
    key = find_key(call.tx, call.scope, blob.key_id)
    if key is None:
        raise ApiError(
            "AccessDenied",
            "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you"
            " are not allowed to access.",
        )
    authorize_use(call, key, use)
    require_enabled(key)
    plaintext, material = decrypt(call.use(Vault), key, blob, source.context)
    return key, plaintext, material


def _same_key(call: Call, source_key_id: str, destination: str) -> Context:
    """The condition key that tells a change of key from a change of context."""
    other = find_key(call.tx, call.scope, read_name(call.scope, destination))
    same = other is not None and other.key_id == source_key_id
    return {"kms:ReEncryptOnSameKey": "true" if same else "false"}
